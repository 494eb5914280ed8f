"""Charts show what they are given: looked at by their pixels."""

import numpy as np

from training.charts import COLOURS, Curve, Mark, bars, curves, matrix


def count(picture, colour):
    return int((np.abs(np.asarray(picture, dtype=int) - colour).sum(axis=2) < 30).sum())


def heights(picture, colour):
    """The mean row of a colour's pixels, in the left and in the right half of the picture, below the legend."""
    found = np.abs(np.asarray(picture, dtype=int) - colour).sum(axis=2) < 30
    found[:75] = False
    rows, columns = np.nonzero(found)
    middle = found.shape[1] // 2
    return rows[columns < middle].mean(), rows[columns >= middle].mean()


def test_a_curve_rises_where_its_values_do_and_each_has_a_colour():
    both = [Curve("rising", [0.01, 0.1, 1.0]), Curve("falling", [1.0, 0.1, 0.01])]
    for log in (False, True):
        picture = curves("title", "level", ["a", "b", "c"], both, log=log)
        left, right = heights(picture, COLOURS[0])
        assert right < left - 30, "higher is nearer to the top"
        left, right = heights(picture, COLOURS[1])
        assert left < right - 30
        marked = curves("title", "level", ["a", "b", "c"], both, [Mark("here", 1.0)], log)
        rows, columns = np.nonzero(np.any(np.asarray(marked) != np.asarray(picture), axis=2))
        assert len(set(rows)) > 300 and 458 < columns.min() < 466, "a line from top to bottom at the second place"


def test_bars_are_as_long_as_their_values():
    whole = count(bars("title", "", [("a", 1.0)]), COLOURS[0])
    half = count(bars("title", "", [("a", 1.0), ("b", 0.5)]), COLOURS[0])
    assert 0.6 < half / whole < 0.9


def test_a_matrix_tells_signs_apart_and_draws_equal_values():
    picture = matrix("title", "", ["low", "high"], [[1.0, -1.0], [-1.0, 1.0]])
    pixels = np.asarray(picture, dtype=int)
    blue = (pixels[:, :, 2] - pixels[:, :, 0]) > 40
    orange = (pixels[:, :, 0] - pixels[:, :, 2]) > 40
    assert abs(int(blue.sum()) - int(orange.sum())) < 0.1 * blue.sum()
    assert blue[300, 300] and orange[300, 560], "the first row is the lowest"


def test_what_rounds_to_nothing_is_written_without_a_sign():
    plain, signed = (matrix("", "", ["a"], [[value]]) for value in (0.0, -0.004))
    assert np.abs(np.asarray(plain, dtype=int) - np.asarray(signed, dtype=int)).max() < 5, "but for the shade"


def test_all_equal_and_zero_values_can_be_drawn():
    assert curves("", "", ["a", "b"], [Curve("flat", [0.0, 0.0])], log=True).size == (860, 480)
    assert bars("", "", [("a", 0.0)]).size == matrix("", "", ["a"], [[0.0]]).size == (860, 480)
    assert curves("", "", ["a"], [Curve("one", [2.0])], log=True).size == (860, 480)
