"""The official sums, by hand."""

import pytest

from training.evaluation.vbench.scores import DIMENSIONS, PUBLISHED, QUALITY, SEMANTIC, aggregate, listed, table

HIGHEST = {name: each.high for name, each in (QUALITY | SEMANTIC).items()}
LOWEST = {name: each.low for name, each in (QUALITY | SEMANTIC).items()}


def test_the_ends_of_every_range_are_0_and_100():
    assert aggregate(HIGHEST, "best", "4")[2:] == pytest.approx((100, 100, 100))
    assert aggregate(LOWEST, "worst", "4")[2:] == pytest.approx((0, 0, 0))


def test_groups_and_weights_are_the_official_ones():
    """Nine of ten parts: the dynamic degree counts half in Quality, each semantic dimension a ninth."""
    still = aggregate({**HIGHEST, "dynamic_degree": 0.0}, "still", "4")
    assert (still.quality, still.semantic) == pytest.approx((100 * 6 / 6.5, 100))
    assert still.total == pytest.approx(0.8 * 100 * 6 / 6.5 + 20)
    plain = aggregate({**HIGHEST, "scene": 0.4111}, "half of the scenes", "4")
    assert (plain.quality, plain.semantic) == pytest.approx((100, 100 * 8.5 / 9))
    middle = aggregate({**HIGHEST, "subject_consistency": (1 + 0.1462) / 2}, "", "")
    assert middle.quality == pytest.approx(100 * 6 / 6.5)


def test_nothing_is_summed_where_a_dimension_is_missing():
    with pytest.raises(KeyError, match="color"):
        aggregate({name: value for name, value in HIGHEST.items() if name != "color"}, "", "")


def test_published_totals_follow_from_their_parts():
    whole = [row for row in PUBLISHED if row.quality and row.semantic]
    assert len(whole) >= 14
    for row in whole:
        assert row.total == pytest.approx(0.8 * row.quality + 0.2 * row.semantic, abs=0.02), row.name


def test_the_table_has_ones_own_row_above_the_published_ones():
    lines = table(aggregate(HIGHEST, "mine", "4")).splitlines()
    assert lines[2] == "| mine | 4 | 100.00 | 100.00 | 100.00 |"
    assert "| HunyuanVideo, DCM | 4 | 83.83 | 85.12 | 78.67 |" in lines
    assert "| Wan 2.1 1.3B, PDD (2607.26004) | 4 | 84.94 | 86.45 |  |" in lines
    assert len(DIMENSIONS) == 16 and listed({"scene": 0.5}).endswith("| scene | 50.00 |")
