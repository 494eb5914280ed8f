"""Phased consistency, a baseline: one network, several spans of the grid (PCM, arXiv 2405.18407, consistency part)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.losses import pseudo_huber
from dcm_core.schedule.experts import ExpertKind

from ..config import Count
from ..data.batch import Batch
from ..errors import ConfigError
from ..run.draws import Draws
from .base import LossMap, Setup
from .consistency import Consistency, ConsistencyOptions
from .parts import side_part, whole_part


class SingleOptions(ConsistencyOptions):
    """One network."""

    expert: ExpertKind | None = Field(
        default=None,
        description="Train on the noise levels of one expert alone: of two such stages each is a whole network on its "
        "side of kappa. In a run of its own the teacher acts on the other side.",
    )

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
        made = side_part(setup, options, options.expert) if options.expert else whole_part(setup, options)
        return cls(setup, options, *made)

    def spans(self) -> list[range]:
        return phases(self.part.indices(self), self.options.phases)

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        jumps = self.compared(self.pairs(batch, draws))
        yield "student", {"consistency": pseudo_huber(jumps.prediction, jumps.target, self.options.huber_c)}

    def sigmas(self, steps: int) -> Tensor:
        """Steps of equal numbers of grid points, so that with ``phases`` steps each one crosses one phase."""
        if self.options.expert:
            return super().sigmas(steps)
        starts = [span.stop - 1 for span in reversed(phases(self.part.indices(self), steps))]
        return torch.tensor([*(self.schedule.grid.sigma(i) for i in starts), 0.0])


def phases(levels: range, count: int) -> list[range]:
    """Grid indices in ``count`` spans, ascending, as equal as whole numbers allow."""
    points = len(levels)
    if not 1 <= count <= points:
        raise ConfigError(f"options.phases={count} must be between 1 and the {points} points of the grid.")
    edges = [levels.start + points * edge // count for edge in range(count + 1)]
    return [range(first, last) for first, last in zip(edges, edges[1:], strict=False)]


METHOD = PCM
