"""A picture of motion: how fast one or two videos move from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from .canvas import GRID, MUTED, TEXT, Canvas

_COLOURS = ((255, 166, 87), (86, 196, 219))  # of the video and of its reference
_STEPS = (1, 2, 2.5, 5, 10)  # between marks of the axis, times a power of ten


def plot_motion(speeds: Mapping[str, Sequence[float]], width: int = 960, height: int = 540) -> Tensor:
    """Pixels a frame against frames, a curve a video: float32 [height, width, 3] in 0..1.

    ``speeds``: by the name of a video, from each of its frames to the next. Raises ValueError for a size too small to
    read.
    """
    canvas = _Motion(width, height, speeds)
    canvas.axes()
    canvas.curves()
    canvas.legend(
        (f"{name}, {sum(speed) / len(speed):.2f} pixels a frame", colour, TEXT)
        for (name, speed), colour in zip(speeds.items(), _COLOURS, strict=False)
    )
    return canvas.tensor()


class _Motion(Canvas):
    """One picture in the making: `x` places the end of a step between frames, `y` a speed."""

    def __init__(self, width: int, height: int, speeds: Mapping[str, Sequence[float]]):
        super().__init__(width, height)
        self.speeds = speeds
        self.frames = max(len(speed) for speed in speeds.values())
        fastest = max(0.1, *(max(speed) for speed in speeds.values()))
        self.mark = _round_step(fastest / 5)
        self.highest = self.mark * math.ceil(fastest / self.mark)

    def x(self, frame: float) -> float:
        return self.left + (self.right - self.left) * (frame - 1) / max(1, self.frames - 1)

    def y(self, speed: float) -> float:
        return self.bottom + (self.top - self.bottom) * speed / self.highest

    def axes(self) -> None:
        for number in range(round(self.highest / self.mark) + 1):
            y = self.y(number * self.mark)
            self.line((self.left, y), (self.right, y), GRID, 1)
            self.text(self.left - 14 * self.unit, y, f"{number * self.mark:g}", self.small, MUTED, "rm")
        for frame in range(1, self.frames + 1, math.ceil(self.frames / 20)):
            self.text(self.x(frame), self.bottom + 20 * self.unit, str(frame), self.small, MUTED)
        self.text((self.left + self.right) / 2, self.bottom + 44 * self.unit, "frame", self.small, MUTED)
        self.text(self.left, self.top - 28 * self.unit, "pixels a frame", self.small, MUTED, "lm")

    def curves(self) -> None:
        for speed, colour in reversed(list(zip(self.speeds.values(), _COLOURS, strict=False))):
            points = [(self.x(frame), self.y(value)) for frame, value in enumerate(speed, 1)]
            for start, end in pairwise(points):
                self.line(start, end, colour, 3.2)
            for point in points:
                self.dot(*point, 5 * self.unit if self.frames <= 40 else 1.6 * self.unit, colour)


def _round_step(least: float) -> float:
    """The smallest round number that is at least so much."""
    power = 10 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * 0.999)
