"""The detail expert: texture and edges, from kappa down to the last noise level (DCM, arXiv 2506.03123, stage 2).

Low-rank adapters and replaced layers over the frozen semantic expert, trained by consistency, an adversary that looks
through the frozen teacher's features, and feature matching.
"""

from __future__ import annotations

from collections.abc import Iterator

from dcm_core.losses import pseudo_huber

from ..config import Config
from ..data.batch import Batch
from ..networks.roles import Roles
from ..run.draws import Draws
from .adversary import Adversary, AdversaryOptions
from .base import Calls, LossMap, Setup
from .consistency import Consistency, ConsistencyOptions
from .distillation import Part
from .parts import OverSemanticOptions, detail_part


class DetailOptions(AdversaryOptions, OverSemanticOptions, ConsistencyOptions):
    """A detail expert."""


class Detail(Consistency):
    """Minimises ``L_consistency + adversarial * L_hinge + matching * L_features`` below kappa, down to sigma_min.

    The student is the frozen semantic expert, or the low-noise model of a pair, with an adapter, which begins without
    effect.
    """

    Options = DetailOptions
    options: DetailOptions

    def __init__(self, setup: Setup, options: DetailOptions, roles: Roles, part: Part):
        super().__init__(setup, options, roles, part)
        self.adversary = Adversary(self, options)

    @classmethod
    def build(cls, setup: Setup, options: DetailOptions) -> Detail:
        return cls(setup, options, *detail_part(setup, options))

    @classmethod
    def calls(cls, options: DetailOptions, config: Config) -> Calls:
        return options.with_adversary(super().calls(options, config))

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        jumps = self.pairs(batch, draws)
        compared = self.compared(jumps)
        losses = {"consistency": pseudo_huber(compared.prediction, compared.target, self.options.huber_c)}
        if self.adversary.acts(draws.iteration):
            (span,) = self.spans()
            yield from self.adversary.turns(losses, jumps.prediction, jumps.target, jumps.end, batch, draws, span)
        else:
            yield "student", losses


METHOD = Detail
