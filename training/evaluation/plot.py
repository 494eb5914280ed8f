"""The numbers of an evaluation as a picture: a panel a measure, a dot with its interval a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ..charts import Pen
from ..pictures import FAINT, INK
from .intervals import Estimate
from .measures import Measure

_MARGIN, _PANEL, _LINE, _HEAD, _COLUMNS = 24, 220, 22, 34, 4
_RANGE, _NUMBER = 136, 146  # of a panel: how wide its dots are spread, and where the number stands
_RULE, _FIRST, _OTHERS = (222, 222, 218), (120, 124, 134), (36, 112, 184)
_FAR = 4  # a row this many times farther out than the median one is drawn at the edge


def plot(
    rows: Mapping[str, Mapping[str, Estimate]], names: Sequence[str], measures: Mapping[str, Measure]
) -> Image.Image:
    """The panels of the named measures; the first row, the reference, is grey."""
    columns = min(_COLUMNS, len(names))
    label = max(map(Pen.length, rows)) + 14
    height = _HEAD + len(rows) * _LINE + _MARGIN
    pen = Pen(2 * _MARGIN + label + columns * _PANEL, _MARGIN + -(-len(names) // columns) * height)
    for number, name in enumerate(names):
        left, top = _MARGIN + label + number % columns * _PANEL, _MARGIN + number // columns * height
        pen.text(left, top, name, INK, "lm", Pen.medium)
        known = {row: numbers[name] for row, numbers in rows.items() if name in numbers}
        low, high = _range(list(known.values()))
        for line, row in enumerate(rows):
            y = top + _HEAD + line * _LINE
            if number % columns == 0:
                pen.text(_MARGIN, y, row, INK if line else FAINT, "lm")
            if row in known:
                found, colour = known[row], _OTHERS if line else _FIRST
                ends = [found.low, found.value, found.high]
                first, middle, last = (
                    left + _RANGE * (min(max(each, low), high) - low) / (high - low) for each in ends
                )
                pen.line([(left, y), (left + _RANGE, y)], _RULE)
                pen.line([(first, y), (last, y)], colour, 3)
                pen.dot(middle, y, colour, 4)
                pen.text(left + _NUMBER, y, measures[name].text(found).partition(" ")[0], FAINT, "lm")
    return pen.picture()


def _range(found: Sequence[Estimate]) -> tuple[float, float]:
    """What a panel shows: the intervals of all rows but those that are far out."""
    most = _FAR * max(sorted(each.value for each in found)[len(found) // 2], found[0].value) or float("inf")
    near = [each for each in found if each.value <= most]
    low, high = min(each.low for each in near), max(each.high for each in near)
    return low, max(high, low + 1e-6)
