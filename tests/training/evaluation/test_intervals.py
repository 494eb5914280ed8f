"""Intervals: as wide as theory says, the same each time, and never without width where nothing was missed."""

import pytest
import torch

from training.evaluation.intervals import bootstrap, mean, ratio, share


def test_the_interval_of_a_mean_is_the_textbooks():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 5
    found = mean(values)
    error = 1.96 * float(values.std()) / 20
    assert found.value == pytest.approx(float(values.mean()))
    assert found.high - found.value == pytest.approx(error, rel=0.1)
    assert found.value - found.low == pytest.approx(error, rel=0.1)
    assert mean(values) == found, "the same each time"


def test_a_ratio_is_that_of_means_clip_by_clip():
    reference = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.1
    found = ratio(0.34 * reference, reference)
    assert (found.value, found.low, found.high) == pytest.approx((0.34, 0.34, 0.34))
    nothing = ratio(reference, torch.zeros(50))
    assert (nothing.value, nothing.low, nothing.high) == (1, 1, 1)


def test_a_share_of_all_has_an_interval():
    found = share([True] * 288)
    assert found.value == found.high == 1 and 0.98 < found.low < 0.99
    assert share([True, False] * 50).low == pytest.approx(0.404, abs=0.001)


def test_a_biased_statistic_has_its_interval_turned_around():
    values = torch.rand(30, generator=torch.Generator().manual_seed(0))
    plain = bootstrap(lambda each: each.mean(-1), values)
    turned = bootstrap(lambda each: each.mean(-1), values, biased=True)
    assert turned.low == pytest.approx(2 * plain.value - plain.high) and turned.value == plain.value


def test_the_interval_of_a_biased_statistic_holds_its_number_where_all_resamples_are_larger():
    found = bootstrap(lambda each: each.sort().values.diff().eq(0).sum(-1), torch.arange(20.0), biased=True)
    assert found.low <= found.value == 0 <= found.high
