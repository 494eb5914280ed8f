"""Phased consistency, a baseline: one network, several spans of the grid (PCM, arXiv 2405.18407, consistency part)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.losses import pseudo_huber
from dcm_core.sampling import VelocityModel, with_experts

from ..config import Count
from ..data.batch import Batch, Conditions
from ..errors import ConfigError
from ..export import export_backbone
from ..networks.exchange import with_layers
from ..run.draws import Draws
from .base import AS_BACKBONE, LossMap
from .distillation import Distillation, DistillationOptions, boundary


class SingleOptions(DistillationOptions):
    """One network."""

    whole = True

    expert: Literal["semantic", "detail"] | None = Field(
        default=None,
        description="Train on the noise levels of one expert alone: of two such stages each is a whole network on its "
        "side of kappa. In a run of its own the teacher acts on the other side.",
    )


class PCMOptions(SingleOptions):
    """One network that jumps in phases."""

    phases: Count = Field(default=4, description="The grid is cut into this many spans of equal numbers of points.")


class PCM(Distillation):
    """Minimises ``L_consistency`` over the whole grid; every jump ends where its phase ends."""

    Options = PCMOptions
    options: PCMOptions
    usage = AS_BACKBONE

    def boundary(self) -> dict[str, Any]:
        return boundary(self.schedule) if self.options.expert else {}

    def levels(self) -> range:
        """The grid indices that this network is trained on."""
        expert = self.options.expert
        return self.schedule.training_range(expert) if expert else range(self.schedule.grid.points)

    def spans(self) -> list[range]:
        return phases(self.levels(), self.options.phases)

    def few_step(self, conditions: Conditions) -> VelocityModel:
        student, teacher = self.student_alone(conditions), self.guided_teacher(conditions)
        if self.options.expert is None:
            return student
        both = (student, teacher) if self.options.expert == "semantic" else (teacher, student)
        return with_experts(*both, self.schedule)

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        jumps = self.pairs(batch, draws)
        if self.options.per_interval:
            jumps = jumps.per_interval()
        yield "student", {"consistency": pseudo_huber(jumps.prediction, jumps.target, self.options.huber_c)}

    def sample(self, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        return self.followed(self.few_step(conditions), noise, self.sigmas(steps))

    def sigmas(self, steps: int) -> Tensor:
        """Steps of equal numbers of grid points, so that with ``phases`` steps each one crosses one phase."""
        if self.options.expert:
            return super().sigmas(steps)
        starts = [span.stop - 1 for span in reversed(phases(self.levels(), steps))]
        return torch.tensor([*(self.schedule.grid.sigma(i) for i in starts), 0.0])

    def export(self, path: Path) -> None:
        state, layers = self.backbone.comfy_state(self.student.network), self.changes()
        if self.world.first:
            export_backbone(path, self.config, with_layers(state, layers))


def phases(levels: range, count: int) -> list[range]:
    """Grid indices in ``count`` spans, ascending, as equal as whole numbers allow."""
    points = len(levels)
    if not 1 <= count <= points:
        raise ConfigError(f"options.phases={count} must be between 1 and the {points} points of the grid.")
    edges = [levels.start + points * edge // count for edge in range(count + 1)]
    return [range(first, last) for first, last in zip(edges, edges[1:], strict=False)]


METHOD = PCM
