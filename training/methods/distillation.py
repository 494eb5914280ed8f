"""What all distillation methods share: a frozen teacher, a target network, consistency pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.expert.layers import Expert, Layer
from dcm_core.families.presets import find_family
from dcm_core.sampling import VelocityModel
from dcm_core.schedule.experts import ExpertSchedule

from .. import hub
from ..config import Config, Count, Decay, MethodOptions, Positive, Weight
from ..data.batch import Batch, Conditions
from ..errors import ConfigError, MissingWeights
from ..networks.network import Network, Role
from ..networks.roles import Mode, Roles, cast_roles
from ..run.draws import Draws
from ..run.record import Record, record, weights_digest
from .base import Calls, Method, Setup
from .consistency import Jumps, consistency


class DistillationOptions(MethodOptions):
    """What every distillation needs to know."""

    whole: ClassVar[bool] = False  # is a whole backbone exported?

    mode: Mode = Field(
        default="full",
        description="What is trained and held: `full`, all weights of a copy (a detail expert: an adapter over a copy "
        "that is the semantic expert), or `adapter`, an adapter of the one frozen backbone that all roles share.",
    )
    rank: Count = Field(default=128, description="Of an adapter's low-rank pairs, over the attentions' projections.")
    alpha: Positive = Field(
        default=256.0,
        description="`alpha / rank` scales the output of the low-rank pairs. The embedders and the output head get "
        "whole layers in their place.",
    )
    guidance: Weight = Field(
        default=6.0,
        description="Scale of the teacher's guidance, `v_uncond + guidance * (v_cond - v_uncond)`; 1 is none.",
    )
    embedded_guidance: Weight | None = Field(
        default=None, description="The scale that the networks are told, for a family whose networks are told one."
    )
    huber_c: Positive = Field(
        default=0.001, description="Where the pseudo-Huber loss turns from a parabola into the absolute value."
    )
    per_interval: bool = Field(
        default=False,
        description="Compare velocities, not latents, so that the losses do not fade with the length of a span.",
    )
    target_ema: Decay | None = Field(
        default=None,
        description="Decay of an averaged target network; none means the student itself, without gradient.",
    )
    teacher: str | None = Field(
        default=None,
        description="File or folder of its weights; none means `backbone.weights`, or else this run's teacher stage.",
    )

    def contradictions(self, config: Config) -> Iterator[str]:
        yield from super().contradictions(config)
        if config.compute.fp8 and (self.mode == "full" or self.whole):
            yield (
                f"compute.fp8=true: stages.{config.stage} exports weights that it would round. Set "
                f"stages.{config.stage}.options.mode=adapter, and use semantic and detail stages only."
            )


class Distillation(Method):
    """Roles: student (trained), teacher (frozen), target (the student, or its moving average)."""

    Options = DistillationOptions
    options: DistillationOptions

    def __init__(self, setup: Setup, options: DistillationOptions, roles: Roles):
        self.roles = roles
        self.sources = {"teacher": {"weights": weights_digest(roles.teacher.state())}}
        super().__init__(setup, options, roles.student)
        self.teacher, self.target = roles.teacher, roles.target
        if options.target_ema is not None:
            self.averages["target"] = roles.average(self.trainable, options.target_ema)

    @classmethod
    def build(cls, setup: Setup, options: DistillationOptions) -> Distillation:
        """The student starts as the teacher."""
        check_guidance(setup, options)
        return cls(setup, options, cast(setup, options))

    @classmethod
    def calls(cls, options: DistillationOptions) -> Calls:
        """The teacher's, with guidance two, and the target's."""
        return Calls(plain=2 if options.guidance == 1 else 3)

    @property
    def networks(self) -> list[Network]:
        return self.roles.networks

    def changes(self) -> dict[str, Layer]:
        """What the student's adapter changes, by ComfyUI module name; nothing where all weights are trained."""
        return self.backbone.adapter_layers(self.student.network, self.student.adapters)

    def trained_with(self) -> Record:
        grid = self.schedule.grid
        schedule = {"shift": grid.shift, "points": grid.points} | self.boundary()
        return record(self.config, self.options, self.sources, schedule)

    def boundary(self) -> dict[str, Any]:
        """What of the boundary between the experts the training depends on: nothing for a single network."""
        return {}

    def sigmas(self, steps: int) -> Tensor:
        """The noise levels of a run of so many steps, as its result is meant to be used: [steps + 1], ends with 0."""
        return self.schedule.sigmas(steps)

    def student_alone(self, conditions: Conditions) -> VelocityModel:
        """What is trained, where it acts."""
        return self.model(self.student, conditions)

    def few_step(self, conditions: Conditions) -> VelocityModel:
        """What runs at these noise levels, with whatever acts before what is trained."""
        return self.student_alone(conditions)

    @abstractmethod
    def spans(self) -> list[range]:
        """The spans of grid indices that this method trains on, each with an end point of its own."""

    def pairs(self, batch: Batch, draws: Draws) -> Jumps:
        """Consistency pairs at random noise levels of the spans."""
        spans = self.spans()
        index = draws.indices("index", range(spans[0].start, spans[-1].stop)).to(self.device)
        start = index.clone()
        for span in spans:
            start[(index >= span.start) & (index < span.stop)] = span.start
        sigma = self.schedule.grid.sigma(index).to(batch.latents)
        return consistency(
            self.process.noised(batch.latents, draws.noise("noise", batch.latents), sigma),
            index,
            start,
            self.schedule.grid,
            student=self.model(self.student, batch.conditions),
            target=self.model(self.target, batch.conditions),
            teacher=self.guided_teacher(batch.conditions),
            process=self.process,
        )

    def model(self, role: Role, conditions: Conditions) -> VelocityModel:
        return super().model(role, conditions.told(self.options.embedded_guidance))

    def guided_teacher(self, conditions: Conditions) -> VelocityModel:
        """The teacher with classifier-free guidance: what the student has to reproduce in one call."""
        return self.guided(self.teacher, conditions, self.options.guidance)


def cast(setup: Setup, options: DistillationOptions, semantic: Expert | None = None) -> Roles:
    """The roles over the teacher, and over a semantic expert if there is one. Raises ConfigError."""
    adapter = {"rank": options.rank, "alpha": options.alpha, "seed": setup.config.seed}
    averaged = options.target_ema is not None
    return cast_roles(setup.backbone, load_teacher(setup, options), options.mode, adapter, averaged, semantic)


def load_teacher(setup: Setup, options: DistillationOptions) -> Network:
    """The teacher's network with its weights, as they are held in training. Raises ConfigError where there are none."""
    named = options.teacher or setup.config.backbone.weights
    path = named or str(Path(setup.config.output, "teacher", "teacher.safetensors").absolute())
    remedy = (
        "Set backbone.weights to its file, folder or name on the hub, or run the teacher stage of this configuration "
        "first."
    )
    try:
        found = setup.config.find(path, "teacher", remedy)
    except MissingWeights:
        if not hub.is_name(path):
            raise
        found = hub.downloaded(path)
    return setup.backbone.load(found, getattr(torch, setup.config.compute.dtype))


def check_guidance(setup: Setup, options: DistillationOptions) -> None:
    """Raises ConfigError for an embedded guidance where networks are told none, and for none where they are."""
    family = find_family(setup.config.backbone.family)
    name = f"stages.{setup.config.stage}.options.embedded_guidance"
    if family.embedded_guidance and options.embedded_guidance is None:
        raise ConfigError(f"{name} is missing: say which guidance {family.title} networks are told, for example 6.")
    if options.embedded_guidance is not None and not family.embedded_guidance:
        raise ConfigError(f"{name}={options.embedded_guidance:g}: {family.title} networks are told none; leave it out.")


def boundary(schedule: ExpertSchedule) -> dict[str, Any]:
    """The boundary between two experts, as the settings of a schedule have it."""
    return {"kappa_index": schedule.kappa_index, "rule": schedule.switch.rule}
