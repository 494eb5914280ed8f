"""The semantic expert: layout and motion, from pure noise down to kappa (DCM, arXiv 2506.03123, stage 1)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from dcm_core.losses import pseudo_huber, temporal_coherence

from ..config import Count, Weight
from ..data.batch import Batch, Conditions
from ..export import backbone_fingerprint, export_adapter, export_semantic
from ..networks.roles import Roles
from ..run.draws import Draws
from .base import AS_EXPERT, LossMap, Setup
from .distillation import Distillation, DistillationOptions, boundary

logger = logging.getLogger(__name__)


class SemanticOptions(DistillationOptions):
    """A semantic expert."""

    tc_weight: Weight = Field(default=1.0, description="Weight of the temporal coherence loss.")
    tc_lag: Count = Field(default=3, description="The gap of the temporal coherence loss, in latent frames.")


class Semantic(Distillation):
    """Minimises ``L_consistency + tc_weight * L_TC`` on the grid above kappa; every jump ends at kappa."""

    Options = SemanticOptions
    options: SemanticOptions
    usage = AS_EXPERT

    def __init__(self, setup: Setup, options: SemanticOptions, roles: Roles):
        super().__init__(setup, options, roles)
        frames = self.data.latent_shape[1]
        if frames <= options.tc_lag:
            logger.warning(
                "The clips have %d latent frames, so the temporal coherence loss (tc_lag=%d) is always 0. "
                "Use longer clips or a smaller tc_lag.", frames, options.tc_lag,
            )  # fmt: skip

    def boundary(self) -> dict[str, Any]:
        return boundary(self.schedule)

    def spans(self) -> list[range]:
        return [self.schedule.training_range("semantic")]

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        jumps = self.pairs(batch, draws)
        if self.options.per_interval:
            jumps = jumps.per_interval()
        coherence = temporal_coherence(jumps.prediction, jumps.target, self.options.tc_lag)
        yield (
            "student",
            {
                "consistency": pseudo_huber(jumps.prediction, jumps.target, self.options.huber_c),
                "temporal": self.options.tc_weight * coherence,
            },
        )

    def sample(self, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        """This expert's share of the steps, then every point of the grid by the teacher: what it adds is seen alone.

        The teacher of a pair has no more than a look to add."""
        sigmas = self.schedule.sigmas(steps)
        mine, _ = self.schedule.split(sigmas)
        at_kappa = self.followed(
            self.model(self.student, conditions), noise, [*sigmas[:mine].tolist(), self.schedule.kappa_sigma]
        )
        if self.config.part:
            return self.to_look_at(at_kappa, conditions)
        below = [self.schedule.grid.sigma(i) for i in reversed(self.schedule.training_range("detail"))]
        return self.followed(self.guided_teacher(conditions), at_kappa, [*below, 0.0])

    def export(self, path: Path) -> None:
        before = self.backbone.comfy_state(self.teacher.network)
        if self.student.adapters:
            layers = self.changes()
            if self.world.first:
                # A fingerprint is made of the norms, which no adapter changes: the same before and after.
                same = backbone_fingerprint(self.config.backbone.family, before)
                export_adapter(path, self.config, "semantic", layers, self.options, same, same)
            return
        after = self.backbone.comfy_state(self.student.network)
        if self.world.first:
            export_semantic(path, self.config, before, after, options=self.options)


METHOD = Semantic
