"""The adversary of the last noise levels: clips are told apart, and matched, by the frozen teacher's features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.losses import feature_matching, hinge_discriminator, hinge_generator

from ..config import Count, MethodOptions, OptimizerConfig, Pair, Positive, Weight, Whole
from ..data.batch import Batch, Conditions
from ..networks.discriminator import Discriminator
from ..networks.features import Features
from ..run.draws import Draws
from ..run.optim import Learner
from .base import Calls, LossMap
from .distillation import Distillation


class DiscriminatorOptions(OptimizerConfig):
    """The discriminator's optimizer and width."""

    lr: Positive = Field(default=1e-5, description="The learning rate after the warm-up.")
    betas: Pair = Field(default=(0.0, 0.999), description="AdamW's decays of the gradient's mean and of its square.")
    width: Count = Field(default=1024, description="Channels of the hidden 1x1 convolutions.")


class AdversaryOptions(MethodOptions):
    """Both losses, and what they look at."""

    adversarial: Weight = Field(
        default=0.5, description="Weight of the hinge loss; 0 here and for `matching` is neither. Published: 0.5."
    )
    matching: Weight = Field(
        default=1.0, description="Weight of feature matching. Published: 1.0 for Wan, 0.1 for HunyuanVideo."
    )
    adversarial_start: Whole = Field(
        default=0, description="Iteration from which the discriminator and both weights act."
    )
    real: Literal["target", "data"] = Field(
        default="target",
        description="What the discriminator takes for real: the student's own `target` as published, or `data`. On "
        "small networks fake and target are near identical and the discriminator learns nothing from them.",
    )
    feature_stride: Count = Field(
        default=2, description="The teacher's features are taken after blocks 0, stride, 2 stride, ..."
    )
    discriminator: DiscriminatorOptions = Field(
        default_factory=DiscriminatorOptions, description="The discriminator's optimizer and width."
    )

    @property
    def opposed(self) -> bool:
        """Is there an adversary at all?"""
        return bool(self.adversarial or self.matching)

    def with_adversary(self, calls: Calls) -> Calls:
        """Besides other calls, those for the features of the fake, of the target, and of clips of the data."""
        if not self.opposed:
            return calls
        return Calls(calls.plain + (2 if self.real == "data" else 1), calls.trained, through=1)


class Adversary:
    """The discriminator of a method, and its losses (DCM, arXiv 2506.03123, stage 2)."""

    def __init__(self, method: Distillation, options: AdversaryOptions):
        self.method, self.options = method, options
        channels, layers = method.backbone.feature_shape(method.teacher.network, options.feature_stride)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(method.config.seed)
            made = Discriminator(channels, layers, options.discriminator.width, method.config.compute.recomputing)
        self.discriminator = made.to(method.device)
        settings = f"{method.settings}.options.discriminator"
        method.learners["discriminator"] = Learner(self.discriminator, options.discriminator, method.world, settings)

    def acts(self, iteration: int) -> bool:
        return self.options.opposed and iteration >= self.options.adversarial_start

    def turns(
        self,
        losses: LossMap,
        fake: Tensor,
        target: Tensor,
        end: Tensor,
        batch: Batch,
        draws: Draws,
        span: range,
        rows: Tensor | None = None,
        share: float = 1.0,
    ) -> Iterator[tuple[str, LossMap]]:
        """The student's other ``losses`` with those against the discriminator, and then the discriminator's own.

        ``fake`` and ``target`` [B, C, T, H, W]: where the student landed and should have, at the noise levels ``end``
        [B]. Both are noised up to a level below the grid indices ``span`` before they are looked at. With ``rows``,
        bool [B], the losses are those of some samples alone; the networks see all of them in any case, forward and
        backward, since processes that share networks have to make the same calls. ``share``: how many of the whole
        batch these samples are, so that the losses are means over them however the batch is split.
        """
        method, options = self.method, self.options
        level = method.schedule.grid.previous(draws.indices("level", span)).to(batch.latents)
        noise = draws.noise("renoise", batch.latents)
        from_data = options.real == "data"

        def raised(x: Tensor) -> Features:
            higher = method.process.renoised(x, noise, end, level, linear=not from_data)
            return self._features(higher, level, batch.conditions)

        seen = raised(fake)
        with torch.no_grad():
            wanted = real = raised(target)
            if from_data:
                real = self._features(method.process.noised(batch.latents, noise, level), level, batch.conditions)
        weight = 1.0
        if rows is not None and rows.any():
            seen, wanted, real = (each.rows(rows) for each in (seen, wanted, real))
            weight = float(rows.float().mean()) / share
        elif rows is not None:
            weight = 0.0
        hinge = hinge_generator(self.discriminator(seen.tokens, seen.grid, frozen=True))
        losses["adversarial"] = weight * options.adversarial * hinge
        losses["matching"] = weight * options.matching * feature_matching(seen.velocities, wanted.velocities)
        yield "student", losses

        fake_logits = self.discriminator([layer.detach() for layer in seen.tokens], seen.grid)
        real_logits = self.discriminator(real.tokens, real.grid)
        yield "discriminator", {"discriminator": weight * hinge_discriminator(fake_logits, real_logits)}

    def _features(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Features:
        method = self.method
        told = conditions.told(method.options.embedded_guidance)
        return method.teacher(x, method.process.timestep(sigma), told, self.options.feature_stride)[1]
