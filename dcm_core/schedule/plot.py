"""A picture of a run: its noise levels over the steps, in the colour of the expert that takes each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageDraw
from torch import Tensor

from ..canvas import GRID, MUTED, TEXT, Canvas, Colour
from .experts import EXPERT_NAMES, ExpertSchedule, PartNames

_SEMANTIC, _DETAIL, _KAPPA, _PLAIN = (255, 166, 87), (86, 196, 219), (226, 108, 148), (166, 186, 150)
_PARTS = (_SEMANTIC, _DETAIL)
# Sigmas to mark on the axis where there is room, the first ones first.
_FLOW_TICKS = (0.0, 1.0, 0.9, 0.98, 0.5, 0.95, 0.99, 0.8, 0.7, 0.3)
# Of a DDPM, times: the marks are timesteps.
_TIME_TICKS = (0.001, 1.0, 0.5, 0.75, 0.25)
_MOST_LABELS = 12  # steps beyond which values are no longer written at every point


def plot_schedule(
    schedule: ExpertSchedule,
    sigmas: Tensor | Sequence[float],
    width: int = 960,
    height: int = 540,
    names: PartNames | str = EXPERT_NAMES,
) -> Tensor:
    """Noise level against step: float32 [height, width, 3] in 0..1.

    ``names``: of the two parts and their boundary, in the legend; or of the one that takes all steps.

    The level's axis is spaced as the backbone's own grid is: at a large shift everything the semantic expert
    does would otherwise lie in the uppermost pixels. Raises ValueError for sigmas no sampler can run on, or a
    size too small to read.
    """
    levels = schedule.check(sigmas).tolist()
    canvas = _Schedule(schedule, names, len(levels) - 1, width, height)
    canvas.axes()
    canvas.areas(levels)
    canvas.boundary()
    canvas.path(levels)
    canvas.parts(schedule.split(sigmas))
    return canvas.tensor()


class _Schedule(Canvas):
    """One picture in the making: `x` places a step, `y` a sigma."""

    def __init__(self, schedule: ExpertSchedule, names: PartNames | str, steps: int, width: int, height: int):
        super().__init__(width, height)
        self.schedule, self.names, self.steps = schedule, names, steps
        self.curve = schedule.grid.curve

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.steps

    def y(self, sigma: float) -> float:
        return self.bottom + (self.top - self.bottom) * self.curve.u(sigma)

    def colour(self, sigma: float) -> Colour:
        if isinstance(self.names, str):
            return _PLAIN
        return {"semantic": _SEMANTIC, "detail": _DETAIL}[self.schedule.acting(sigma)]

    def axes(self) -> None:
        taken: list[float] = []
        for sigma, mark in self.ticks():
            y = self.y(sigma)
            if all(abs(y - other) > 30 * self.unit for other in taken):
                taken.append(y)
                self.line((self.left, y), (self.right, y), GRID, 1)
                self.text(self.left - 14 * self.unit, y, mark, self.small, MUTED, "rm")
        for step in range(0, self.steps + 1, math.ceil(self.steps / 20)):
            self.text(self.x(step), self.bottom + 20 * self.unit, str(step), self.small, MUTED)
        self.text(self.x(self.steps / 2), self.bottom + 44 * self.unit, "steps done", self.small, MUTED)
        self.text(self.left - 14 * self.unit, self.top - 28 * self.unit, self.curve.unit, self.small, MUTED, "rm")

    def ticks(self) -> list[tuple[float, str]]:
        """The noise levels to mark, with what is written there."""
        if self.schedule.grid.prediction == "flow":
            return [(sigma, f"{sigma:g}") for sigma in _FLOW_TICKS]
        return [(sigma, self.curve.label(sigma, 0)) for sigma in map(self.curve.sigma, _TIME_TICKS)]

    def areas(self, levels: Sequence[float]) -> None:
        paint, veil = Image.new("RGB", self.image.size), Image.new("L", self.image.size)
        for step, (sigma, following) in enumerate(pairwise(levels)):
            left, right = self.x(step), self.x(step + 1)
            shape = [
                (left, self.bottom),
                (left, self.y(sigma)),
                (right, self.y(following)),
                (right, self.bottom),
            ]
            ImageDraw.Draw(paint).polygon(shape, fill=self.colour(sigma))
            ImageDraw.Draw(veil).polygon(shape, fill=40)
        self.image.paste(paint, mask=veil)

    def boundary(self) -> None:
        if isinstance(self.names, str):
            return
        # Of a pair no grid point is meant, but the noise level that was typed.
        sigma = self.schedule.kappa_sigma if self.names == EXPERT_NAMES else self.schedule.switch_sigma
        y, dash = self.y(sigma), 9 * self.unit
        x = self.left
        while x < self.right:
            self.line((x, y), (min(x + dash, self.right), y), _KAPPA, 1.6)
            x += 1.8 * dash
        label = f"{self.names.boundary} {self.curve.label(sigma, 4)}"
        self.text(self.right, y - 16 * self.unit, label, self.font, _KAPPA, "rm")

    def path(self, levels: Sequence[float]) -> None:
        points = [(self.x(step), self.y(sigma)) for step, sigma in enumerate(levels)]
        for step, (start, end) in enumerate(pairwise(points)):
            self.line(start, end, self.colour(levels[step]), 3.2)
        crowded = self.steps > _MOST_LABELS
        radius, rim = (3 * self.unit, 0) if crowded else (7 * self.unit, 2)
        for step, (x, y) in enumerate(points[:-1]):
            self.dot(x, y, radius, self.colour(levels[step]), rim)
            if step % math.ceil(self.steps / _MOST_LABELS) == 0:
                label = self.curve.label(levels[step], 3)
                self.text(x + 9 * self.unit, y - 17 * self.unit, label, self.font, TEXT, "lm")
        self.dot(*points[-1], radius, MUTED, rim)

    def parts(self, shares: Sequence[int]) -> None:
        names, colours = ([self.names], [_PLAIN]) if isinstance(self.names, str) else (self.names.full, _PARTS)
        shares = shares if len(names) > 1 else [sum(shares)]
        self.legend(
            (f"{name}, {steps} step{'' if steps == 1 else 's'}", colour, TEXT if steps else MUTED)
            for name, steps, colour in zip(names, shares, colours, strict=True)
        )
