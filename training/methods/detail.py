"""The detail expert: texture and edges, from kappa down to the last noise level (DCM, arXiv 2506.03123, stage 2).

Low-rank adapters and replaced layers over the frozen semantic expert, trained by consistency, an adversary that looks
through the frozen teacher's features, and feature matching. Of a pair of models they lie over the low-noise one itself,
whose steps no semantic expert has a part in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dcm_core.errors import ExpertFileError
from dcm_core.expert.file import load_expert
from dcm_core.expert.layers import Expert
from dcm_core.losses import feature_matching, hinge_discriminator, hinge_generator, pseudo_huber
from dcm_core.sampling import VelocityModel, with_experts
from dcm_core.schedule.experts import ExpertSchedule

from ..config import Config, Count, OptimizerConfig, Pair, Positive, Weight, Whole
from ..data.batch import Batch, Conditions
from ..errors import ConfigError
from ..export import backbone_fingerprint, export_adapter
from ..networks.discriminator import Discriminator
from ..networks.features import Features
from ..networks.roles import Roles
from ..run.draws import Draws
from ..run.optim import Learner
from ..run.record import weights_digest
from .base import AS_EXPERT, Calls, LossMap, Setup
from .distillation import Distillation, DistillationOptions, boundary, cast, check_guidance


class DiscriminatorOptions(OptimizerConfig):
    """The discriminator's optimizer and width."""

    lr: Positive = Field(default=1e-5, description="The learning rate after the warm-up.")
    betas: Pair = Field(default=(0.0, 0.999), description="AdamW's decays of the gradient's mean and of its square.")
    width: Count = Field(default=1024, description="Channels of the hidden 1x1 convolutions.")


class DetailOptions(DistillationOptions):
    """A detail expert."""

    semantic: str | None = Field(
        default=None, description="The semantic expert's file; none means this run's semantic stage."
    )
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

    def contradictions(self, config: Config) -> Iterator[str]:
        yield from super().contradictions(config)
        if config.pair is not None:
            yield from self._beside_a_pair(config.stage)
            return
        if self.semantic is None and "semantic" not in config.stages and not _own_semantic(config).exists():
            yield (
                f"stages.{config.stage} has no semantic expert to build on: put a stage `semantic` before it, or name "
                f"its file in stages.{config.stage}.options.semantic."
            )
        before = config.stages.get("semantic")
        if self.mode == "adapter" and self.semantic is None and before and before.options.get("mode") != "adapter":
            yield (
                f"stages.{config.stage}.options.mode=adapter needs a semantic expert that is an adapter as well: set "
                "stages.semantic.options.mode=adapter, or name the file of one in "
                f"stages.{config.stage}.options.semantic."
            )

    def _beside_a_pair(self, stage: str) -> Iterator[str]:
        name = f"stages.{stage}.options"
        if self.semantic is not None:
            yield (
                f"{name}.semantic={self.semantic} beside pair: the detail expert of a pair lies over the low-noise "
                "model itself. Leave it out."
            )
        if self.mode != "adapter":
            yield f"{name}.mode={self.mode}: the detail expert of a pair is an adapter of its model. Set mode: adapter."


class Detail(Distillation):
    """Minimises ``L_consistency + adversarial * L_hinge + matching * L_features`` below kappa, down to sigma_min.

    The student is the frozen semantic expert, or the low-noise model of a pair, with an adapter, which begins without
    effect.
    """

    Options = DetailOptions
    options: DetailOptions
    usage = AS_EXPERT

    def __init__(self, setup: Setup, options: DetailOptions, roles: Roles, discriminator: Discriminator, below: str):
        """``below``: the fingerprint of what the student lies over."""
        semantic = weights_digest(roles.below.state())
        super().__init__(setup, options, roles)
        self.base_fingerprint = below
        if setup.config.pair is None:
            self.sources["semantic"] = {"weights": semantic}
        self.discriminator = discriminator.to(self.device)
        self.learners["discriminator"] = Learner(
            self.discriminator, options.discriminator, self.world, f"{self.settings}.options.discriminator"
        )

    @classmethod
    def build(cls, setup: Setup, options: DetailOptions) -> Detail:
        check_guidance(setup, options)
        semantic = None if setup.config.pair else _load_semantic(setup, options)
        roles = cast(setup, options, semantic)
        channels, layers = setup.backbone.feature_shape(roles.teacher.network, options.feature_stride)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.config.seed)
            discriminator = Discriminator(channels, layers, options.discriminator.width)
        backbone = setup.backbone
        below = (
            semantic.metadata.fingerprint
            if semantic
            else backbone_fingerprint(backbone.family, backbone.comfy_state(roles.below.network))
        )
        return cls(setup, options, roles, discriminator, below)

    @classmethod
    def calls(cls, options: DetailOptions) -> Calls:
        """With an adversary also the features of the fake, of the target, and of clips of the data."""
        plain = super().calls(options).plain
        if not (options.adversarial or options.matching):
            return Calls(plain)
        return Calls(plain + (2 if options.real == "data" else 1), through=1)

    def boundary(self) -> dict[str, Any]:
        return boundary(self.schedule)

    def spans(self) -> list[range]:
        return [self.schedule.training_range("detail")]

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        options = self.options
        jumps = self.pairs(batch, draws)
        compared = jumps.per_interval() if options.per_interval else jumps
        losses = {"consistency": pseudo_huber(compared.prediction, compared.target, options.huber_c)}
        if draws.iteration < options.adversarial_start or not (options.adversarial or options.matching):
            yield "student", losses
            return

        level = self.schedule.grid.previous(draws.indices("level", self.spans()[0])).to(batch.latents)
        noise = draws.noise("renoise", batch.latents)
        from_data = options.real == "data"

        def raised(x: Tensor) -> Features:
            higher = self.process.renoised(x, noise, jumps.end, level, linear=not from_data)
            return self._features(higher, level, batch.conditions)

        fake = raised(jumps.prediction)
        with torch.no_grad():
            target = real = raised(jumps.target)
            if from_data:
                real = self._features(self.process.noised(batch.latents, noise, level), level, batch.conditions)
        with _frozen(self.discriminator):
            losses["adversarial"] = options.adversarial * hinge_generator(self.discriminator(fake.tokens, fake.grid))
        losses["matching"] = options.matching * feature_matching(fake.velocities, target.velocities)
        yield "student", losses

        fake_logits = self.discriminator([layer.detach() for layer in fake.tokens], fake.grid)
        real_logits = self.discriminator(real.tokens, real.grid)
        yield "discriminator", {"discriminator": hinge_discriminator(fake_logits, real_logits)}

    def sample(self, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        """Both experts, each for its share of the steps. Of a pair this one for its own, from latents at kappa."""
        return self.followed(self.few_step(conditions), noise, self.sigmas(steps))

    def few_step(self, conditions: Conditions) -> VelocityModel:
        if self.config.pair is not None:
            return self.student_alone(conditions)
        semantic = self.model(self.roles.below, conditions)
        return with_experts(semantic, self.student_alone(conditions), self.schedule)

    def export(self, path: Path) -> None:
        layers = self.changes()
        if self.world.first:
            export_adapter(path, self.config, "detail", layers, self.options, self.base_fingerprint)

    def _features(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Features:
        told = conditions.told(self.options.embedded_guidance)
        return self.teacher(x, self.process.timestep(sigma), told, self.options.feature_stride)[1]


def _load_semantic(setup: Setup, options: DetailOptions) -> Expert:
    path = options.semantic or str(_own_semantic(setup.config))
    remedy = "Run stage=semantic first, or name its file in options.semantic."
    name = f"stages.{setup.config.stage}.options.semantic"
    file = setup.config.find(path, "semantic expert", remedy)
    try:
        expert = load_expert(file)
    except ExpertFileError as error:
        raise ConfigError(f"{name}: {error}") from None
    ends, begins = expert.metadata.schedule, setup.config.expert_schedule()
    if (ends.kappa_index, ends.grid) != (begins.kappa_index, begins.grid):
        raise ConfigError(
            f"{name}: {file} ends at {_spelled(ends)}, and this stage begins at {_spelled(begins)}. Set schedule to "
            "the former, or train the semantic expert anew with the latter."
        )
    return expert


def _own_semantic(config: Config) -> Path:
    """Where this run's semantic stage leaves its expert."""
    return Path(config.output, "semantic", "semantic.safetensors").absolute()


def _spelled(schedule: ExpertSchedule) -> str:
    grid = schedule.grid
    return f"kappa_index {schedule.kappa_index} of {grid.points} points at shift {grid.shift:g}"


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Gradient passes through the network to its input, none is collected in its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


METHOD = Detail
