"""What a distillation can make: the semantic expert, the detail expert over it, or one network for a whole run.

Of a pair of models the semantic expert lies over the high-noise one and the detail expert over the low-noise one, with
nothing below it: each knows its own noise levels alone.

Each is made of a stage's settings together with the roles that it is trained by.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from dcm_core.errors import ExpertFileError
from dcm_core.expert.file import load_expert
from dcm_core.expert.fingerprint import told_apart
from dcm_core.expert.layers import Expert
from dcm_core.sampling import VelocityModel, with_experts
from dcm_core.schedule.experts import ExpertKind, ExpertSchedule

from ..config import Config
from ..data.batch import Conditions
from ..errors import ConfigError, MisfitExpert
from ..export import backbone_fingerprint, export_adapter, export_backbone, export_semantic
from ..networks.exchange import with_layers
from ..networks.roles import Roles
from .base import AS_BACKBONE, AS_EXPERT, Setup
from .distillation import Distillation, DistillationOptions, Part, cast

logger = logging.getLogger(__name__)


class SemanticPart(Part):
    """From pure noise down to kappa."""

    usage = AS_EXPERT

    def indices(self, method: Distillation) -> range:
        return method.schedule.training_range("semantic")

    def sample(self, method: Distillation, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        """This expert's share of the steps, then every point of the grid by the teacher: what it adds is seen alone.

        Of a pair that teacher is not there: what follows is a look.
        """
        schedule, sigmas = method.schedule, method.sigmas(steps)
        mine, others = schedule.split(sigmas)
        if not others:
            return method.to_look_at(super().sample(method, noise, conditions, steps), conditions)
        at_kappa = method.followed(
            method.student_alone(conditions), noise, [*sigmas[:mine].tolist(), schedule.kappa_sigma]
        )
        below = [schedule.grid.sigma(i) for i in reversed(schedule.training_range("detail"))]
        return method.followed(method.guided_teacher(conditions), at_kappa, [*below, 0.0])

    def export(self, method: Distillation, path: Path) -> None:
        config, backbone = method.as_trained, method.backbone
        before = backbone.comfy_state(method.teacher.network)
        if method.student.adapters:
            layers = method.changes()
            if method.world.first:
                # A fingerprint is made of the norms, which no adapter changes: the same before and after.
                same = backbone_fingerprint(config.backbone.family, before)
                export_adapter(path, config, "semantic", layers, method.options, same, same, method.trained_steps)
            return
        after = backbone.comfy_state(method.student.network)
        if method.world.first:
            export_semantic(path, config, before, after, method.options, method.trained_steps)


@dataclass(frozen=True)
class DetailPart(Part):
    """From kappa down, an adapter over what has this fingerprint: the semantic expert, or the model of a pair."""

    fingerprint: str
    usage = AS_EXPERT

    def indices(self, method: Distillation) -> range:
        return method.schedule.training_range("detail")

    def few_step(self, method: Distillation, conditions: Conditions) -> VelocityModel:
        if method.config.pair is not None:
            return super().few_step(method, conditions)
        semantic = method.model(method.roles.below, conditions)
        return with_experts(semantic, method.student_alone(conditions), method.schedule)

    def export(self, method: Distillation, path: Path) -> None:
        layers = method.changes()
        if method.world.first:
            config, steps = method.as_trained, method.trained_steps
            export_adapter(path, config, "detail", layers, method.options, self.fingerprint, trained_steps=steps)


class WholePart(Part):
    """One network, which knows no boundary."""

    usage = AS_BACKBONE

    def indices(self, method: Distillation) -> range:
        return range(method.schedule.grid.points)

    def boundary(self, method: Distillation) -> dict[str, Any]:
        return {}

    def export(self, method: Distillation, path: Path) -> None:
        state, layers = method.backbone.comfy_state(method.student.network), method.changes()
        if method.world.first:
            export_backbone(path, method.as_trained, with_layers(state, layers), method.trained_steps)


@dataclass(frozen=True)
class SidePart(WholePart):
    """A whole network on one expert's side of kappa. In a run of its own the teacher acts on the other."""

    expert: ExpertKind

    def indices(self, method: Distillation) -> range:
        return method.schedule.training_range(self.expert)

    def boundary(self, method: Distillation) -> dict[str, Any]:
        return Part.boundary(self, method)

    def few_step(self, method: Distillation, conditions: Conditions) -> VelocityModel:
        student, teacher = method.student_alone(conditions), method.guided_teacher(conditions)
        both = (student, teacher) if self.expert == "semantic" else (teacher, student)
        return with_experts(*both, method.schedule)


class OverSemanticOptions(DistillationOptions):
    """What lies over a semantic expert."""

    semantic: str | None = Field(
        default=None,
        description="The semantic expert's file, for a detail expert; none means this run's semantic stage.",
    )

    @property
    def over_semantic(self) -> bool:
        return True

    @property
    def for_steps(self) -> int | None:
        """Of the runs that it is trained for, where there are no others."""
        return None

    def contradictions(self, config: Config) -> Iterator[str]:
        yield from super().contradictions(config)
        if not self.over_semantic:
            return
        if config.pair is not None:
            yield from self._beside_a_pair(f"stages.{config.stage}.options")
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

    def _beside_a_pair(self, name: str) -> Iterator[str]:
        if self.semantic is not None:
            yield (
                f"{name}.semantic={self.semantic} beside pair: the detail expert of a pair lies over the low-noise "
                "model itself. Leave it out."
            )
        if self.mode != "adapter":
            yield f"{name}.mode={self.mode}: the detail expert of a pair is an adapter of its model. Set mode: adapter."

    def builds_on(self, config: Config) -> list[str]:
        own = self.over_semantic and self.semantic is None and config.pair is None
        return super().builds_on(config) + (["semantic"] if own else [])


def semantic_part(setup: Setup, options: DistillationOptions) -> tuple[Roles, Part]:
    """The student starts as the teacher. Raises ConfigError."""
    return cast(setup, options), SemanticPart()


def detail_part(setup: Setup, options: OverSemanticOptions) -> tuple[Roles, Part]:
    """The student starts as the semantic expert, or the low-noise model of a pair, with an adapter that begins without
    effect. Raises ConfigError."""
    if setup.config.pair is not None:
        roles = cast(setup, options)
        return roles, DetailPart(setup.backbone.fingerprint(roles.below.network))
    file, semantic = _load_semantic(setup, options)
    try:
        roles = cast(setup, options, semantic)
    except MisfitExpert as error:
        raise ConfigError(f"{error} It is {file}.") from None
    _check_base(setup, options, semantic, setup.backbone.fingerprint(roles.teacher.network))
    return roles, DetailPart(semantic.metadata.fingerprint)


def whole_part(setup: Setup, options: DistillationOptions) -> tuple[Roles, Part]:
    """The student starts as the teacher. Raises ConfigError."""
    return cast(setup, options), WholePart()


def side_part(setup: Setup, options: DistillationOptions, expert: ExpertKind) -> tuple[Roles, Part]:
    """The student starts as the teacher. Raises ConfigError."""
    return cast(setup, options), SidePart(expert)


def _load_semantic(setup: Setup, options: OverSemanticOptions) -> tuple[Path, Expert]:
    path = options.semantic or str(_own_semantic(setup.config))
    remedy = "Run stage=semantic first, or name its file in options.semantic."
    name = f"stages.{setup.config.stage}.options.semantic"
    file = setup.config.find(path, "semantic expert", remedy)
    try:
        expert = load_expert(file)
    except ExpertFileError as error:
        raise ConfigError(f"{name}: {error}") from None
    if expert.metadata.expert != "semantic":
        raise ConfigError(f"{name}: {file} is a {expert.metadata.expert} expert. {remedy}")
    ends, begins = expert.metadata.schedule, setup.config.expert_schedule()
    if (ends.kappa_index, ends.grid) != (begins.kappa_index, begins.grid):
        raise ConfigError(
            f"{name}: {file} ends at {_spelled(ends)}, and this stage begins at {_spelled(begins)}. Set schedule to "
            "the former, or train the semantic expert anew with the latter."
        )
    known, wanted = expert.metadata.trained_steps, options.for_steps
    if None not in (known, wanted) and known != wanted:
        raise ConfigError(
            f"{name}: {file} was trained for runs of {known} steps, and this stage is for {wanted}: in neither would "
            "both experts act where they were trained. Train both for the same number."
        )
    return file, expert


def _check_base(setup: Setup, options: OverSemanticOptions, semantic: Expert, found: str) -> None:
    """Raises ConfigError where this run's semantic expert was trained over other weights than the teacher's, whose
    fingerprint is ``found``; of one that is named for it, this is only said: it may be meant for a fine-tuned copy."""
    made_for = semantic.metadata.base_fingerprint
    if not made_for or not told_apart(made_for, found):
        return
    what = "was trained over a backbone with other weights than this stage's teacher has"
    if options.semantic is None:
        raise ConfigError(
            f"{_own_semantic(setup.config)} {what}: put the former back, train the semantic expert anew with "
            "--restart stage=semantic, or choose another output."
        )
    logger.warning("%s %s: the detail expert will fit both together, and nothing else.", options.semantic, what)


def _own_semantic(config: Config) -> Path:
    """Where this run's semantic stage leaves its expert."""
    return Path(config.output, "semantic", "semantic.safetensors").absolute()


def _spelled(schedule: ExpertSchedule) -> str:
    grid = schedule.grid
    return f"kappa_index {schedule.kappa_index} of {grid.points} points at shift {grid.shift:g}"
