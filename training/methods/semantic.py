"""The semantic expert: layout and motion, from pure noise down to kappa (DCM, arXiv 2506.03123, stage 1)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pydantic import Field

from dcm_core.losses import pseudo_huber, temporal_coherence

from ..config import Count, Weight
from ..data.batch import Batch
from ..networks.roles import Roles
from ..run.draws import Draws
from .base import LossMap, Setup
from .consistency import Consistency, ConsistencyOptions
from .distillation import Part
from .parts import semantic_part

logger = logging.getLogger(__name__)


class SemanticOptions(ConsistencyOptions):
    """A semantic expert."""

    tc_weight: Weight = Field(default=1.0, description="Weight of the temporal coherence loss.")
    tc_lag: Count = Field(default=3, description="The gap of the temporal coherence loss, in latent frames.")


class Semantic(Consistency):
    """Minimises ``L_consistency + tc_weight * L_TC`` on the grid above kappa; every jump ends at kappa."""

    Options = SemanticOptions
    options: SemanticOptions

    def __init__(self, setup: Setup, options: SemanticOptions, roles: Roles, part: Part):
        super().__init__(setup, options, roles, part)
        frames = self.data.latent_shape[1]
        if frames <= options.tc_lag:
            logger.warning(
                "The clips have %d latent frames, so the temporal coherence loss (tc_lag=%d) is always 0. "
                "Use longer clips or a smaller tc_lag.", frames, options.tc_lag,
            )  # fmt: skip

    @classmethod
    def build(cls, setup: Setup, options: SemanticOptions) -> Semantic:
        return cls(setup, options, *semantic_part(setup, options))

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        jumps = self.compared(self.pairs(batch, draws))
        coherence = temporal_coherence(jumps.prediction, jumps.target, self.options.tc_lag)
        yield (
            "student",
            {
                "consistency": pseudo_huber(jumps.prediction, jumps.target, self.options.huber_c),
                "temporal": self.options.tc_weight * coherence,
            },
        )


METHOD = Semantic
