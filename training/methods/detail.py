"""The detail expert: texture and edges, from kappa down to the last noise level (DCM, arXiv 2506.03123, stage 2).

Low-rank adapters and replaced layers over the frozen semantic expert, trained by consistency, an adversary that looks
through the frozen teacher's features, and feature matching.
"""

from __future__ import annotations

import copy
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
from ..export import export_detail
from ..networks.average import copied, exchanged
from ..networks.discriminator import Discriminator
from ..networks.features import Features
from ..networks.network import Network
from ..run.draws import Draws
from ..run.optim import Learner
from ..run.record import weights_digest
from .base import AS_EXPERT, LossMap, Setup
from .distillation import Distillation, DistillationOptions, boundary, check_guidance, load_teacher


class DiscriminatorOptions(OptimizerConfig):
    """The discriminator's optimizer and width."""

    lr: Positive = Field(default=1e-5, description="The learning rate after the warm-up.")
    betas: Pair = Field(default=(0.0, 0.999), description="AdamW's decays of the gradient's mean and of its square.")
    width: Count = Field(default=1024, description="Channels of the hidden 1x1 convolutions.")


class DetailOptions(DistillationOptions):
    """A detail expert."""

    rank: Count = Field(default=128, description="Of the low-rank adapters.")
    alpha: Positive = Field(default=256.0, description="`alpha / rank` scales the output of the low-rank adapters.")
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
        if self.semantic is None and "semantic" not in config.stages and not _own_semantic(config).exists():
            yield (
                f"stages.{config.stage} has no semantic expert to build on: put a stage `semantic` before it, or name "
                f"its file in stages.{config.stage}.options.semantic."
            )


class Detail(Distillation):
    """Minimises ``L_consistency + adversarial * L_hinge + matching * L_features`` below kappa, down to sigma_min.

    The student is the frozen semantic expert with an adapter, which begins without effect.
    """

    Options = DetailOptions
    options: DetailOptions
    usage = AS_EXPERT

    def __init__(
        self,
        setup: Setup,
        options: DetailOptions,
        student: Network,
        teacher: Network,
        discriminator: Discriminator,
        semantic_fingerprint: str,
        semantic_weights: str,
    ):
        """``semantic_weights``: digest of the network below the adapter."""
        super().__init__(setup, options, student, teacher)
        self.sources["semantic"] = {"weights": semantic_weights}
        self.discriminator = discriminator.to(self.device)
        self.learners["discriminator"] = Learner(
            self.discriminator, options.discriminator, f"{self.settings}.options.discriminator"
        )
        self.semantic_fingerprint = semantic_fingerprint
        # With what is trained at its start, the student is the semantic expert, bit for bit.
        self.start = copied(self.trainable)

    @classmethod
    def build(cls, setup: Setup, options: DetailOptions) -> Detail:
        check_guidance(setup, options)
        teacher = load_teacher(setup, options)
        semantic = _load_semantic(setup, options)
        student = copy.deepcopy(teacher)
        setup.backbone.apply(student, semantic)
        weights = weights_digest(student.transformer.state_dict())
        setup.backbone.add_adapter(student, options.rank, options.alpha, setup.config.seed)
        channels, layers = setup.backbone.feature_shape(teacher, options.feature_stride)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.config.seed)
            discriminator = Discriminator(channels, layers, options.discriminator.width)
        return cls(setup, options, student, teacher, discriminator, semantic.metadata.fingerprint, weights)

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
        """Both experts, each for its share of the steps."""
        return self.followed(self.few_step(conditions), noise, self.sigmas(steps))

    def few_step(self, conditions: Conditions) -> VelocityModel:
        return with_experts(self.semantic(conditions), self.student_alone(conditions), self.schedule)

    def semantic(self, conditions: Conditions) -> VelocityModel:
        """The semantic expert below the adapter. For sampling: it cannot stand between a forward and its backward."""
        student = self.model(self.student, conditions)

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            with exchanged(self.trainable, self.start):
                return student(x, sigma)

        return velocity

    def export(self, path: Path) -> None:
        export_detail(
            path,
            self.config,
            self.backbone.adapter_layers(self.student, self.start),
            options=self.options,
            base_fingerprint=self.semantic_fingerprint,
        )

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
