"""Phased consistency, a baseline: one network, several spans of the grid (PCM, arXiv 2405.18407, consistency part)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.losses import pseudo_huber

from ..config import Count
from ..data.batch import Batch
from ..errors import ConfigError
from ..run.draws import Draws
from .base import LossMap, Setup
from .consistency import Consistency, ConsistencyOptions
from .parts import whole_part


class SingleOptions(ConsistencyOptions):
    """One network."""

    @property
    def whole(self) -> bool:
        return True


class PCMOptions(SingleOptions):
    """One network that jumps in phases."""

    phases: Count = Field(default=4, description="The grid is cut into this many spans of equal numbers of points.")


class PCM(Consistency):
    """Minimises ``L_consistency`` over the whole grid; every jump ends where its phase ends."""

    Options = PCMOptions
    options: PCMOptions

    @classmethod
    def build(cls, setup: Setup, options: PCMOptions) -> PCM:
        return cls(setup, options, *whole_part(setup, options))

    def spans(self) -> list[range]:
        return phases(self.schedule.grid.points, self.options.phases)

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        jumps = self.compared(self.pairs(batch, draws))
        yield "student", {"consistency": pseudo_huber(jumps.prediction, jumps.target, self.options.huber_c)}

    def sigmas(self, steps: int) -> Tensor:
        """Steps of equal numbers of grid points, so that with ``phases`` steps each one crosses one phase."""
        starts = [span.stop - 1 for span in reversed(phases(self.schedule.grid.points, steps))]
        return torch.tensor([*(self.schedule.grid.sigma(i) for i in starts), 0.0])


def phases(points: int, count: int) -> list[range]:
    """The grid's indices 0..points-1 in ``count`` spans, ascending, as equal as whole numbers allow."""
    if not 1 <= count <= points:
        raise ConfigError(f"options.phases={count} must be between 1 and the {points} points of the grid.")
    edges = [points * edge // count for edge in range(count + 1)]
    return [range(first, last) for first, last in zip(edges, edges[1:], strict=False)]


METHOD = PCM
