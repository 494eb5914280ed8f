"""What the plots are drawn on: a dark picture with margins for axes and legend."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]
Point = tuple[float, float]

PAPER, GRID, MUTED, TEXT = (24, 26, 31), (44, 48, 56), (139, 146, 158), (232, 234, 238)
_SCALE = 3  # drawn this much larger and scaled down: PIL draws without antialiasing


class Canvas:
    """A picture in the making; the curves lie between `left` and `right`, `top` and `bottom`.

    ``unit`` is the scale of text and lines. Raises ValueError for a size too small to read.
    """

    def __init__(self, width: int, height: int):
        if width < 480 or height < 270:
            raise ValueError(f"a picture of {width} x {height} is too small to read: use at least 480 x 270.")
        self.size = (width, height)
        self.unit = max(min(width / 960, height / 540), 0.7) * _SCALE
        self.image = Image.new("RGB", (width * _SCALE, height * _SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.left, self.right = 76 * self.unit, width * _SCALE - 44 * self.unit
        self.top, self.bottom = 96 * self.unit, height * _SCALE - 62 * self.unit
        self.large = ImageFont.load_default(size=21 * self.unit)
        self.font = ImageFont.load_default(size=18 * self.unit)
        self.small = ImageFont.load_default(size=15 * self.unit)

    def text(self, x: float, y: float, words: str, font, colour: Colour, anchor: str = "mm") -> None:
        self.draw.text((x, y), words, font=font, fill=colour, anchor=anchor)

    def line(self, start: Point, end: Point, colour: Colour, width: float) -> None:
        self.draw.line([start, end], fill=colour, width=round(width * self.unit))

    def dot(self, x: float, y: float, radius: float, colour: Colour, rim: float = 0) -> None:
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, fill=colour, outline=PAPER, width=round(rim * self.unit))

    def legend(self, entries: Iterable[tuple[str, Colour, Colour]]) -> None:
        """A line of dots above the curves: words, colour of the dot, colour of the words."""
        x, y, radius = self.left, 34 * self.unit, 7 * self.unit
        for words, colour, ink in entries:
            self.dot(x + radius, y, radius, colour)
            x += 24 * self.unit
            self.text(x, y, words, self.large, ink, "lm")
            x += self.large.getlength(words) + 40 * self.unit

    def tensor(self) -> Tensor:
        """The picture, float32 [height, width, 3] in 0..1."""
        width, height = self.size
        small = self.image.resize((width, height), Image.Resampling.LANCZOS)
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        return pixels.view(height, width, 3).to(torch.float32) / 255
