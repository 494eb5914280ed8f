"""What all distillation methods share: a frozen teacher with guidance, the roles beside it, and what is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.expert.layers import Expert, Layer
from dcm_core.families.presets import find_family
from dcm_core.sampling import VelocityModel

from .. import hub
from ..config import Config, Count, MethodOptions, Positive, Weight
from ..data.batch import Conditions
from ..data.levels import share
from ..errors import ConfigError, MissingWeights
from ..networks.narrow import check_base
from ..networks.network import Network, Role
from ..networks.roles import Mode, Roles, cast_roles
from ..run.record import Record, record, weights_digest
from .base import Method, Setup


class DistillationOptions(MethodOptions):
    """What every distillation needs to know."""

    mode: Mode = Field(
        default="full",
        description="What is trained and held: `full`, all weights of a copy (a detail expert: an adapter over a copy "
        "that is the semantic expert), or `adapter`, an adapter of the one frozen backbone that all roles share.",
    )
    rank: Count | Literal["whole"] = Field(
        default=128,
        description="Of an adapter's low-rank pairs, over the attentions' projections. `whole`, of a detail expert: "
        "every linear layer is trained whole instead, for a file as large as the backbone and memory as for `full`.",
    )
    alpha: Positive = Field(
        default=256.0,
        description="`alpha / rank` scales the output of the low-rank pairs, if there are any. The embedders and the "
        "output head get whole layers in their place.",
    )
    guidance: Weight = Field(
        default=6.0,
        description="Scale of the teacher's guidance, `v_uncond + guidance * (v_cond - v_uncond)`; 1 is none.",
    )
    embedded_guidance: Weight | None = Field(
        default=None, description="The scale that the networks are told, for a family whose networks are told one."
    )
    teacher: str | None = Field(
        default=None,
        description="File or folder of its weights; none means `backbone.weights`, or else this run's teacher stage.",
    )

    @property
    def whole(self) -> bool:
        """Is a whole backbone exported?"""
        return False

    @property
    def over_semantic(self) -> bool:
        """Does what is trained lie over a semantic expert?"""
        return False

    @property
    def averaged_target(self) -> bool:
        """Is there a network beside the student that is its moving average?"""
        return False

    def contradictions(self, config: Config) -> Iterator[str]:
        yield from super().contradictions(config)
        if config.pair and self.teacher:
            yield (
                f"stages.{config.stage}.options.teacher={self.teacher} beside pair, whose models are the teachers: "
                "leave it out."
            )
        if config.compute.base and (self.mode == "full" or self.whole):
            yield (
                f"compute.base={config.compute.base}: stages.{config.stage} exports weights that it would round. Set "
                f"stages.{config.stage}.options.mode=adapter, and use semantic and detail stages only."
            )
        if self.rank == "whole":
            yield from self._every_linear(config)
        stages = list(config.stages)
        for name in self.builds_on(config):
            if name in stages[stages.index(config.stage) + 1 :]:
                yield (
                    f"stages.{config.stage} builds on stages.{name} and stands before it: stages run in the order they "
                    f"are written in, so write {name} above {config.stage}."
                )

    def _every_linear(self, config: Config) -> Iterator[str]:
        """What speaks against the rank `whole`."""
        setting = f"stages.{config.stage}.options.rank=whole"
        if not self.over_semantic:
            yield f"{setting} is for a detail expert, and mode: full trains all of this one: set a number."
        elif self.mode == "adapter" and config.pair is None:
            yield (
                f"{setting} beside mode: adapter, whose semantic expert has pairs of low rank, and no whole layer can "
                "take their place: set mode: full, or a number."
            )
        elif self.mode == "adapter" and config.compute.base:
            yield (
                f"{setting} begins at the weights that compute.base={config.compute.base} rounds: leave compute.base "
                "out, or set a number."
            )

    def builds_on(self, config: Config) -> list[str]:
        """The stages whose files this one begins with, of those that a run may have."""
        return [] if self.teacher or config.backbone.weights or config.pair else ["teacher"]


class Part(ABC):
    """What a distillation makes, whatever its objective: one of the experts, or one network for a whole run."""

    usage: ClassVar[str]  # where the exported file goes, in a sentence

    @abstractmethod
    def indices(self, method: Distillation) -> range:
        """The grid indices where it acts."""

    def boundary(self, method: Distillation) -> dict[str, Any]:
        """What of the boundary between the experts the training depends on."""
        schedule = method.schedule
        return {"kappa_index": schedule.kappa_index, "rule": schedule.switch.rule}

    def few_step(self, method: Distillation, conditions: Conditions) -> VelocityModel:
        """What runs in a few steps: with whatever acts before what is trained."""
        return method.student_alone(conditions)

    def sample(self, method: Distillation, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        """See :meth:`Method.sample`."""
        return method.followed(self.few_step(method, conditions), noise, method.sigmas(steps))

    @abstractmethod
    def export(self, method: Distillation, path: Path) -> None:
        """See :meth:`Method.export`."""


class Distillation(Method):
    """Roles: student (trained) and teacher (frozen). ``part``: what is made."""

    Options = DistillationOptions
    options: DistillationOptions

    def __init__(self, setup: Setup, options: DistillationOptions, roles: Roles, part: Part):
        self.roles, self.part, self.usage = roles, part, part.usage
        self.sources = {"teacher": {"weights": weights_digest(roles.teacher.state())}}
        if options.over_semantic and setup.config.pair is None:
            self.sources["semantic"] = {"weights": weights_digest(roles.below.state())}
        super().__init__(setup, options, roles.student)
        self.teacher = roles.teacher

    @property
    def networks(self) -> list[Network]:
        return self.roles.networks

    def changes(self) -> dict[str, Layer]:
        """What the student's adapter changes, by ComfyUI module name; nothing where all weights are trained."""
        return self.backbone.adapter_layers(self.student.network, self.student.adapters)

    def trained_with(self) -> Record:
        grid = self.schedule.grid
        schedule = {"shift": grid.shift, "points": grid.points} | self.part.boundary(self)
        return record(self.config, self.options, self.sources, schedule)

    def sigmas(self, steps: int) -> Tensor:
        """The noise levels of a run of so many steps, as its result is meant to be used: [steps + 1], ends with 0.

        Of a pair they are this stage's share: down to kappa, or from there on.
        """
        return self.share(self.schedule.sigmas(steps))

    def every_level(self) -> Tensor:
        """Those of the teacher itself: every point of the grid."""
        return self.share(torch.cat([self.schedule.grid.sigmas.flip(0), torch.zeros(1)]))

    def share(self, sigmas: Tensor) -> Tensor:
        """Of the levels of a whole run those at which this stage's backbone acts, and where its part ends."""
        return share(self.schedule, self.config.part, sigmas)

    def to_look_at(self, x: Tensor, conditions: Conditions) -> Tensor:
        """The latents where the levels of this stage end, without noise.

        From kappa, where the high-noise model of a pair ends and the other is not there, by one jump of the teacher.
        """
        if self.config.part != "high_noise":
            return x
        return self.followed(self.guided_teacher(conditions), x, [self.schedule.kappa_sigma, 0.0])

    def student_alone(self, conditions: Conditions) -> VelocityModel:
        """What is trained, where it acts."""
        return self.model(self.student, conditions)

    def few_step(self, conditions: Conditions) -> VelocityModel:
        """What runs at these noise levels, with whatever acts before what is trained."""
        return self.part.few_step(self, conditions)

    @abstractmethod
    def spans(self) -> list[range]:
        """The spans of grid indices that this method trains on, rising, each with an end point of its own."""

    def sample(self, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        return self.part.sample(self, noise, conditions, steps)

    def export(self, path: Path) -> None:
        self.part.export(self, path)

    def model(self, role: Role, conditions: Conditions) -> VelocityModel:
        return super().model(role, conditions.told(self.options.embedded_guidance))

    def guided_teacher(self, conditions: Conditions) -> VelocityModel:
        """The teacher with classifier-free guidance: what the student has to reproduce in one call."""
        return self.guided(self.teacher, conditions, self.options.guidance)


def cast(setup: Setup, options: DistillationOptions, semantic: Expert | None = None) -> Roles:
    """The roles over the teacher, and over a semantic expert if there is one. Raises ConfigError."""
    check_guidance(setup, options)
    check_base(setup.config.compute.base)
    adapter = {"rank": options.rank, "alpha": options.alpha, "seed": setup.config.seed}
    network = load_teacher(setup, options)
    return cast_roles(setup.backbone, network, options.mode, adapter, options.averaged_target, semantic)


def load_teacher(setup: Setup, options: DistillationOptions) -> Network:
    """The teacher's network with its weights, as they are held in training. Raises ConfigError where there are none."""
    config = setup.config
    named = options.teacher or config.weights
    path = named or str(Path(config.output, "teacher", "teacher.safetensors").absolute())
    key, otherwise = "backbone.weights", ", or run the teacher stage of this configuration first"
    if config.part:
        key, otherwise = f"pair.{config.part}", ""
    remedy = f"Set {key} to its file, folder or name on the hub{otherwise}."
    try:
        found = config.find(path, "teacher", remedy)
    except MissingWeights:
        if not hub.is_name(path):
            raise
        found = hub.downloaded(path)
    return setup.backbone.load(found, getattr(torch, setup.config.compute.dtype))


def check_guidance(setup: Setup, options: DistillationOptions) -> None:
    """Raises ConfigError for an embedded guidance where networks are told none, for none where they are, and where the
    teacher's guidance would be taken for granted or lead away from no text."""
    family = find_family(setup.config.backbone.family)
    own = f"stages.{setup.config.stage}.options.guidance"
    name = f"stages.{setup.config.stage}.options.embedded_guidance"
    if family.embedded_guidance and options.embedded_guidance is None:
        raise ConfigError(f"{name} is missing: say which guidance {family.title} networks are told, for example 6.")
    if options.embedded_guidance is not None and not family.embedded_guidance:
        raise ConfigError(f"{name}={options.embedded_guidance:g}: {family.title} networks are told none; leave it out.")
    if family.embedded_guidance and "guidance" not in options.model_fields_set:
        raise ConfigError(
            f"{own} is missing: {family.title} networks are guided by the scale they are told, so it is usually 1. "
            f"By the default of {options.guidance:g} they would be guided twice."
        )
    if options.guidance != 1 and getattr(setup.data, "stands_in", False):
        raise ConfigError(
            f"{own}={options.guidance:g} leads away from the empty caption, which the published set has not: name one "
            f"in data.options.unconditional, or set {own}=1."
        )
