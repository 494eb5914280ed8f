"""Curves, bars and tables of colours, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .pictures import FAINT, INK, PAPER

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = ((32, 104, 168), (214, 110, 30), (58, 140, 84), (180, 60, 110), (110, 90, 170), FAINT)
_LINE = (224, 226, 230)
_SCALE = 2  # drawn this much larger and scaled down: Pillow draws without antialiasing
_WIDTH, _HEIGHT = 860, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 28, 84, 66


@dataclass(frozen=True)
class Curve:
    """One value for each place on the axis below."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A vertical line with its name, at a place between or on those of the axis."""

    name: str
    at: float


def curves(
    title: str, axis: str, labels: Sequence[str], drawn: Sequence[Curve], marks: Sequence[Mark] = (), log: bool = False
) -> Image.Image:
    """Curves over places that have these labels; with ``log``, by their logarithm where all are above 0."""
    sheet = _Sheet(title)
    values = [value for curve in drawn for value in curve.values]
    scale = _Log(values) if log and min(values) > 0 else _Linear([0.0, *values])
    places = len(labels)

    def x(place: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / places

    for tick in scale.ticks():
        y = sheet.y(scale.share(tick))
        sheet.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], _LINE)
        sheet.text(_LEFT - 8, y, f"{tick:.3g}", FAINT, "rm")
    for place in range(0, places, math.ceil(places / 12)):
        sheet.text(x(place), _HEIGHT - _BOTTOM + 16, labels[place], FAINT)
    sheet.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 20, axis, FAINT)
    for number, mark in enumerate(marks):
        sheet.line([(x(mark.at), _TOP), (x(mark.at), _HEIGHT - _BOTTOM)], COLOURS[3])
        sheet.text(x(mark.at) + 5, _HEIGHT - _BOTTOM - 10 - 16 * number, mark.name, COLOURS[3], "lm")
    for number, curve in enumerate(drawn):
        points = [(x(place), sheet.y(scale.share(value))) for place, value in enumerate(curve.values)]
        sheet.line(points, COLOURS[number % len(COLOURS)], 2)
        for point in points:
            sheet.dot(*point, COLOURS[number % len(COLOURS)])
    sheet.legend([curve.name for curve in drawn])
    return sheet.picture()


def bars(title: str, axis: str, drawn: Sequence[tuple[str, float]]) -> Image.Image:
    """A bar for each name."""
    sheet = _Sheet(title)
    left, top = 190, 58
    most = max(value for _, value in drawn) or 1.0
    step = (_HEIGHT - top - 48) / len(drawn)
    for number, (name, value) in enumerate(drawn):
        y, end = top + step * number, left + (_WIDTH - left - 90) * value / most
        sheet.box((left, y + step * 0.18, end, y + step * 0.82), COLOURS[0])
        sheet.text(left - 10, y + step / 2, name, INK, "rm")
        sheet.text(end + 8, y + step / 2, f"{value:.3g}", FAINT, "lm")
    sheet.text((left + _WIDTH - 90) / 2, _HEIGHT - 20, axis, FAINT)
    return sheet.picture()


def matrix(title: str, axis: str, labels: Sequence[str], rows: Sequence[Sequence[float]]) -> Image.Image:
    """Numbers in -1..1 as colours, blue for 1 and orange for -1, the first row lowest."""
    sheet = _Sheet(title)
    places, size = len(labels), (_HEIGHT - 56 - _BOTTOM) / len(labels)
    left = (_WIDTH - size * places) / 2
    for row, values in enumerate(rows):
        y = _HEIGHT - _BOTTOM - size * (row + 1)
        sheet.text(left - 8, y + size / 2, labels[row], FAINT, "rm")
        for column, value in enumerate(values):
            x = left + size * column
            sheet.box((x, y, x + size - 1, y + size - 1), _shade(value))
            if size >= 24:
                sheet.text(x + size / 2, y + size / 2, _short(value), INK)
    for column in range(0, places, math.ceil(places / 12)):
        sheet.text(left + size * (column + 0.5), _HEIGHT - _BOTTOM + 14, labels[column], FAINT)
    sheet.text(_WIDTH / 2, _HEIGHT - 20, axis, FAINT)
    return sheet.picture()


def _short(value: float) -> str:
    """Such as .05 and -.58; what rounds to nothing has no sign."""
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1)


def _shade(value: float) -> Colour:
    strong = COLOURS[0] if value > 0 else COLOURS[1]
    share = min(1.0, abs(value)) * 0.75  # what is written on it stays legible
    red, green, blue = (round(paper + (full - paper) * share) for paper, full in zip(PAPER, strong, strict=True))
    return red, green, blue


class _Linear:
    """Where a value lies between the least and the greatest."""

    def __init__(self, values: Sequence[float]):
        self.low, self.high = min(values), max(values)
        if self.high == self.low:
            self.high = self.low + 1.0

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> Iterator[float]:
        step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(each for each in (1, 2, 5, 10) if (self.high - self.low) / (step * each) <= 6)
        return (step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1))


class _Log(_Linear):
    """The same of logarithms, whose ticks are round numbers."""

    def __init__(self, values: Sequence[float]):
        super().__init__([math.log10(value) for value in values])

    def share(self, value: float) -> float:
        return super().share(math.log10(value))

    def ticks(self) -> Iterator[float]:
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        between = (1, 1.5, 2, 3, 5, 7) if self.high - self.low < 1 else (1, 2, 5) if len(powers) < 5 else (1,)
        found = (10**power * each for power in powers for each in between)
        return (tick for tick in found if 0 <= self.share(tick) <= 1)


class Pen:
    """Draws in the units of the finished picture, which is drawn larger."""

    small, medium, large = (ImageFont.load_default(size * _SCALE) for size in (12, 14, 17))

    def __init__(self, width: float, height: float):
        self.image = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, colour: Colour, anchor: str = "mm", font: Any = small) -> None:
        self.draw.text((x * _SCALE, y * _SCALE), words, colour, font, anchor)

    @classmethod
    def length(cls, words: str) -> float:
        """How long words are in the small font."""
        return cls.small.getlength(words) / _SCALE

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 1) -> None:
        self.draw.line([(x * _SCALE, y * _SCALE) for x, y in points], colour, width * _SCALE)

    def dot(self, x: float, y: float, colour: Colour, radius: float = 3.5) -> None:
        self.draw.ellipse([_SCALE * each for each in (x - radius, y - radius, x + radius, y + radius)], colour)

    def box(self, edges: tuple[float, float, float, float], colour: Colour) -> None:
        self.draw.rectangle([_SCALE * each for each in edges], colour)

    def picture(self) -> Image.Image:
        return self.image.resize((self.image.width // _SCALE, self.image.height // _SCALE), Image.Resampling.LANCZOS)


class _Sheet(Pen):
    """One chart in the making."""

    def __init__(self, title: str):
        super().__init__(_WIDTH, _HEIGHT)
        self.text(24, 18, title, INK, "la", self.large)

    def y(self, share: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share

    def legend(self, names: Sequence[str]) -> None:
        x = float(_LEFT)
        for number, name in enumerate(names):
            self.dot(x, 60, COLOURS[number % len(COLOURS)], 4.5)
            self.text(x + 10, 60, name, INK, "lm")
            x += 34 + self.length(name)
