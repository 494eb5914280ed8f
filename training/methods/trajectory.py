"""Regression on the teacher's own paths: each jump is taught where the teacher's guided path leads.

A run of N steps cuts the noise levels into N segments. From the state ``x`` of a path at a level ``s`` of a segment,
the student learns the velocity ``v`` of the one jump to where the path is at the segment's end ``e``:

    jump(x, v, s, e) = path(e),    loss = mean((student(x, s) - v)^2)

in float32; for v-prediction a jump is a rotation. What is learned is for these N steps alone. Relatives: PeRFlow (arXiv
2405.07510) cuts the levels the same way and teaches the same jump, from noised clips; FlowSteer (2511.18834) begins it
on paths too, solved while it trains, with an adversary all along them; InstaFlow (2309.06380) has one segment;
progressive distillation (2202.00512) joins two steps at a time, and TRACT (2303.04248) more of them; CTM (2310.02279)
learns jumps between any two levels; PDD (2607.26004) gives each segment a head of its own.

States can also be the student's own (``own``): what it really meets in a run, after its errors of the steps before. Or
they lie as far off the path in any direction (``perturbed``): with the student's own state ``y`` and noise ``n``,

    x = path(s) + rms(y - path(s)) n
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.process import column

from ..config import Config, Count, Share, Weight
from ..data.batch import Batch, Conditions
from ..data.levels import float32, solver_levels
from ..data.teacher_paths import TeacherPaths
from ..networks.roles import Roles
from ..run.draws import Draws
from .adversary import Adversary, AdversaryOptions
from .base import Calls, LossMap, Setup
from .distillation import Distillation, Part
from .parts import OverSemanticOptions, detail_part, semantic_part, whole_part

_PARTS = {"semantic": semantic_part, "detail": detail_part, "single": whole_part}


class TrajectoryOptions(AdversaryOptions, OverSemanticOptions):
    """An expert, or one network, for runs of a certain number of steps."""

    expert: Literal["semantic", "detail", "single"] = Field(
        description="What is made: one of the experts, or a single network for the whole run."
    )
    steps: Count = Field(default=4, description="The steps of the runs that it is for, of both experts together.")
    starts: Share = Field(
        default=0.5, description="How many samples begin where a segment begins, as those of a run do; others within."
    )
    own: Share = Field(
        default=0.0,
        description="How many of those that begin where a segment begins have the state of the student's own run.",
    )
    perturbed: Share = Field(
        default=0.0,
        description="How many of them have the path's state with noise as large as the error of the student's own run.",
    )
    own_target: Literal["path", "teacher"] = Field(
        default="path",
        description="Where both should land: on the `path` that begins with the same noise, or where the `teacher` "
        "goes from there, which costs its calls.",
    )
    adversarial: Weight = Field(default=0.0, description="Weight of the hinge loss, in the last segment alone.")
    matching: Weight = Field(default=0.0, description="Weight of feature matching, in the last segment alone.")
    real: Literal["target", "data"] = Field(
        default="data", description="What the discriminator takes for real: the student's own `target`, or `data`."
    )

    @property
    def whole(self) -> bool:
        return self.expert == "single"

    @property
    def over_semantic(self) -> bool:
        return self.expert == "detail"

    @property
    def for_steps(self) -> int:
        return self.steps

    @property
    def off_path(self) -> float:
        """How many of the states where a segment begins are not a path's."""
        return self.own + self.perturbed

    def contradictions(self, config: Config) -> Iterator[str]:
        yield from super().contradictions(config)
        stage, data, schedule = f"stages.{config.stage}", config.stage_data(), config.expert_schedule()
        if schedule.lists:
            yield f"{stage}: the segments end at points of the grid, so it needs schedule.rule=aligned."
        if self.steps > schedule.grid.points:
            yield f"{stage}.options.steps={self.steps} must be at most the {schedule.grid.points} points of the grid."
        if config.validation.steps != self.steps:
            yield (
                f"{stage} is trained for runs of {self.steps} steps, and validation.steps={config.validation.steps}: "
                "set both to the same."
            )
        if self.expert == "detail" and self.steps == 1:
            yield f"{stage}.options.steps=1: the only step is the semantic expert's, and leaves a detail expert none."
        if data.source == "teacher" and data.text_dropout:
            yield (
                f"{stage}: a path belongs to its prompt, and data.text_dropout={data.text_dropout:g} leaves prompts "
                "out: set it to 0."
            )
        if self.own + self.perturbed > 1:
            yield f"{stage}.options: own={self.own:g} and perturbed={self.perturbed:g} are shares of the same states."
        if data.source is None and self.off_path and self.own_target == "path":
            yield (
                f"{stage}.options.own_target=path needs data.source=teacher, since noise alone leads to no path of "
                "these clips: set own_target=teacher, or own=0 and perturbed=0."
            )


class Windows(NamedTuple):
    """States ``x`` and where they should land, both [B, C, T, H, W], at the noise levels ``start`` and ``end`` [B]."""

    x: Tensor
    landed: Tensor
    start: Tensor
    end: Tensor


class Trajectory(Distillation):
    """Minimises ``L_velocity``, and in the last segment ``+ adversarial * L_hinge + matching * L_features``."""

    Options = TrajectoryOptions
    options: TrajectoryOptions

    def __init__(self, setup: Setup, options: TrajectoryOptions, roles: Roles, part: Part):
        super().__init__(setup, options, roles, part)
        self.trained_steps = options.steps
        # The noise levels of a run, falling, and those of its steps in which the student acts.
        self.run = [float32(sigma) for sigma in self.sigmas(options.steps).tolist()]
        grid, own = self.schedule.grid, part.indices(self)
        self.steps = [step for step, start in enumerate(self.run[:-1]) if grid.nearest(start) in own]
        self.paths = self.data if isinstance(self.data, TeacherPaths) else None
        if self.paths is not None:
            self.paths.cache.positions(self.run)  # raises where states are missing
        self.nodes = solver_levels(grid, [self.run])
        self.levels = self.nodes if self.paths is None else self.paths.cache.plan.levels
        self.adversary = Adversary(self, options) if options.opposed else None

    @classmethod
    def build(cls, setup: Setup, options: TrajectoryOptions) -> Trajectory:
        return cls(setup, options, *_PARTS[options.expert](setup, options))

    @classmethod
    def calls(cls, options: TrajectoryOptions, config: Config) -> Calls:
        """From clips the teacher solves what is left of a segment; states of its own take the student's steps."""
        segment = (1 if options.guidance == 1 else 2) * config.expert_schedule().grid.points / options.steps
        own = options.steps - 1 + (segment if options.own_target == "teacher" else 0)
        left = segment * (1 + options.starts) / 2 if config.stage_data().source is None else 0
        return options.with_adversary(Calls(round(left + options.off_path * own)))

    def spans(self) -> list[range]:
        index = [self.schedule.grid.nearest(level) if level else -1 for level in self.run]
        return [range(index[step + 1] + 1, index[step] + 1) for step in reversed(self.steps)]

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        step, level = self._drawn(draws)
        x, wanted, start, end = self._windows(batch, draws, step, level)
        velocity = self.student_alone(batch.conditions)(x, start)
        losses = {"velocity": (velocity - self.process.velocity(x, wanted, start, end)).square().mean()}
        if self.adversary is None or not self.adversary.acts(draws.iteration):
            yield "student", losses
            return
        landed, last = self.process.jump(x, velocity, start, end), (step == self.steps[-1]).to(self.device)
        every, _ = self._drawn(replace(draws, rows=range(draws.count)))
        share = float((every == self.steps[-1]).float().mean())
        yield from self.adversary.turns(losses, landed, wanted, end, batch, draws, self.spans()[0], last, share)

    @property
    def _asks_teacher(self) -> bool:
        """Does the teacher solve segments while the student learns?"""
        return self.paths is None or bool(self.options.off_path and self.options.own_target == "teacher")

    def _drawn(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """[B] of ``steps``, and levels [B] within these segments or at their starts.

        One for all samples of an iteration where the teacher is asked, so that processes that share networks make the
        same calls.
        """
        if self._asks_teacher:
            shared = torch.rand(3, 1, generator=draws.generator("shared")).expand(3, len(draws.rows))
            segment, inside, place = shared
        else:
            segment, inside, place = (draws.uniform(stream) for stream in ("segment", "inside", "place"))
        chosen = [self.steps[int(share * len(self.steps))] for share in segment.tolist()]
        starts = []
        for step, share, where in zip(chosen, inside.tolist(), place.tolist(), strict=True):
            start, end = self.run[step : step + 2]
            within = [level for level in self.levels if end < level < start]
            starts.append(start if share < self.options.starts or not within else within[int(where * len(within))])
        return torch.tensor(chosen), torch.tensor(starts)

    @torch.no_grad()
    def _windows(self, batch: Batch, draws: Draws, step: Tensor, start: Tensor) -> Windows:
        run, conditions = torch.tensor(self.run), batch.conditions
        end, at_start = run[step + 1], start == run[step]
        first, x, landed = self._states(batch, draws, start, end)
        nodes = [node for node in self.nodes if end[0] <= node <= start[0]]
        if self.options.off_path:
            share = draws.uniform("own")
            own, off = share < self.options.own, (at_start & (share < self.options.off_path)).to(self.device)
            # At least one sample is followed: processes that share networks make the same calls.
            rows = off.nonzero().flatten() if off.any() else off.new_zeros(1, dtype=torch.int64)
            told = conditions.rows(rows)
            error = self._arrived(first[rows], told, step.to(self.device)[rows]) - x[rows]
            noise = draws.noise("perturbed", x)[rows] * column(error.square().flatten(1).mean(1).sqrt(), error)
            moved = x[rows] + torch.where(column(own.to(self.device)[rows], error), error, noise)
            x = torch.where(column(off, x), x.index_copy(0, rows, moved), x)
            if self.paths is not None and self._asks_teacher:
                solved = self.followed(self.guided_teacher(told), x[rows], nodes)
                landed = torch.where(column(off, x), landed.index_copy(0, rows, solved), landed)
        if self.paths is None:
            landed = self.followed(self.guided_teacher(conditions), x, nodes)
        return Windows(x, landed, start.to(self.device), end.to(self.device))

    def _states(self, batch: Batch, draws: Draws, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States where a run begins, at ``start``, and at ``end`` [B]; of clips the last are not known."""
        if self.paths is None:
            noise = draws.noise("noise", batch.latents)
            x = self.process.noised(batch.latents, noise, start.to(self.device))
            return self.process.noised(batch.latents, noise, self.run[0]), x, x
        cache, numbers = self.paths.cache, self.paths.numbers(draws)
        places = [cache.positions([self.run[0], *levels]) for levels in torch.stack([start, end], 1).tolist()]
        rows = [cache.states([number], place) for number, place in zip(numbers, places, strict=True)]
        first, x, landed = torch.cat(rows).to(self.device).unbind(1)
        return first, x, landed

    def _arrived(self, x: Tensor, conditions: Conditions, step: Tensor) -> Tensor:
        """Where the student comes from the run's start in its own steps, before its ``step`` [B] of the run."""
        model, arrived = self.few_step(conditions), x
        for number, (start, following) in enumerate(pairwise(self.run[: self.steps[-1] + 1])):
            x = self.process.jump(x, model(x, x.new_full((len(x),), start)), start, following)
            arrived = torch.where(column(step == number + 1, x), x, arrived)
        return arrived


METHOD = Trajectory
