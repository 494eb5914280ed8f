"""The suggested kappa parts what was made to differ, and says where nothing does."""

import pytest

from training.evaluation.dynamics.kappa import suggested
from training.evaluation.dynamics.measure import Measured

INDEX = [4, 9, 14, 19, 24]


def found(loss, gradient, jump, cosine):
    return Measured(0, loss, gradient, jump, jump, cosine)


def sides(below, count=5):
    """Gradients that agree on either side of a boundary, and across it point away from each other."""
    return [[1.0 if (i < below) == (j < below) else -0.5 for j in range(count)] for i in range(count)]


def test_a_step_in_all_measures_is_the_boundary():
    low, high = [1e-3] * 3, [1e-1] * 2
    suggestion = suggested(INDEX, found(low + high, low + high, low + high, sides(3)))
    assert suggestion.index == 16, "between the third and the fourth level, 14 and 19"
    assert set(suggestion.votes().values()) == {16}
    place = suggestion.boundaries.index(16)
    assert all(scores[place] == pytest.approx(1) for scores in suggestion.scores.values())


def test_an_even_rise_has_three_quarters_in_the_middle():
    index = list(range(4, 50, 5))
    rise = [10**n for n in range(10)]
    suggestion = suggested(index, found(rise, rise, rise, [[0.0] * 10 for _ in range(10)]))
    assert suggestion.index == 26 and suggestion.scores["loss"][4] == pytest.approx(0.75, abs=0.02)
    assert "cosine" not in suggestion.votes(), "it tells no boundary from another"


def test_measures_count_the_same_and_their_votes_are_told_apart():
    low_first = [1e-3] + [1e-1] * 4
    suggestion = suggested(INDEX, found(low_first, low_first, low_first, sides(4)))
    assert suggestion.index == 6 and suggestion.votes() == {"loss": 6, "gradient": 6, "jump error": 6, "cosine": 21}
