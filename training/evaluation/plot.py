"""The numbers of an evaluation as a picture: a panel a measure, a dot with its interval a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from ..pictures import FAINT, INK, PAPER
from .intervals import Estimate
from .measures import Measure

_SCALE = 2  # drawn this much larger and scaled down: PIL draws without antialiasing
_MARGIN, _PANEL, _LINE, _HEAD, _COLUMNS = 24, 220, 22, 34, 4
_RANGE, _NUMBER = 136, 146  # of a panel: how wide its dots are spread, and where the number stands
_RULE, _FIRST, _OTHERS = (222, 222, 218), (120, 124, 134), (36, 112, 184)
_FAR = 4  # a row this many times farther out than the median one is drawn at the edge

Colour = tuple[int, int, int]


def plot(
    rows: Mapping[str, Mapping[str, Estimate]], names: Sequence[str], measures: Mapping[str, Measure]
) -> Image.Image:
    """The panels of the named measures; the first row, the reference, is grey."""
    columns = min(_COLUMNS, len(names))
    label = max(_Pen.small.getlength(row) for row in rows) / _SCALE + 14
    height = _HEAD + len(rows) * _LINE + _MARGIN
    pen = _Pen(2 * _MARGIN + label + columns * _PANEL, _MARGIN + -(-len(names) // columns) * height)
    for number, name in enumerate(names):
        left, top = _MARGIN + label + number % columns * _PANEL, _MARGIN + number // columns * height
        pen.text(left, top, name, _Pen.large, INK)
        known = {row: numbers[name] for row, numbers in rows.items() if name in numbers}
        low, high = _range(list(known.values()))
        for line, row in enumerate(rows):
            y = top + _HEAD + line * _LINE
            if number % columns == 0:
                pen.text(_MARGIN, y, row, _Pen.small, INK if line else FAINT)
            if row in known:
                found, colour = known[row], _OTHERS if line else _FIRST
                ends = [found.low, found.value, found.high]
                first, middle, last = (
                    left + _RANGE * (min(max(each, low), high) - low) / (high - low) for each in ends
                )
                pen.line(left, left + _RANGE, y, _RULE, 1)
                pen.line(first, last, y, colour, 3)
                pen.dot(middle, y, colour)
                pen.text(left + _NUMBER, y, measures[name].text(found).partition(" ")[0], _Pen.small, FAINT)
    return pen.picture()


class _Pen:
    """Draws in the units of the finished picture."""

    small, large = ImageFont.load_default(12 * _SCALE), ImageFont.load_default(14 * _SCALE)

    def __init__(self, width: float, height: float):
        self.image = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, font, colour: Colour) -> None:
        self.draw.text((x * _SCALE, y * _SCALE), words, colour, font, "lm")

    def line(self, left: float, right: float, y: float, colour: Colour, width: int) -> None:
        self.draw.line([left * _SCALE, y * _SCALE, right * _SCALE, y * _SCALE], colour, width * _SCALE)

    def dot(self, x: float, y: float, colour: Colour, radius: float = 4) -> None:
        box = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self.draw.ellipse(box, colour)

    def picture(self) -> Image.Image:
        return self.image.resize((self.image.width // _SCALE, self.image.height // _SCALE), Image.Resampling.LANCZOS)


def _range(found: Sequence[Estimate]) -> tuple[float, float]:
    """What a panel shows: the intervals of all rows but those that are far out."""
    most = _FAR * max(sorted(each.value for each in found)[len(found) // 2], found[0].value) or float("inf")
    near = [each for each in found if each.value <= most]
    low, high = min(each.low for each in near), max(each.high for each in near)
    return low, max(high, low + 1e-6)
