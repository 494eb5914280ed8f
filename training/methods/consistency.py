"""Consistency pairs along the teacher's trajectory: the mathematics that the experts and the baselines share.

The noise grid is cut into spans of neighbouring indices. Inside a span the student learns to jump from any sigma
straight to the span's end point. Where it should land is told by one Euler step of the teacher and the target
network's jump from there (DCM, arXiv 2506.03123; consistency models, arXiv 2303.01469).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.process import Level, Process, column
from dcm_core.sampling import VelocityModel
from dcm_core.schedule.grid import NoiseGrid

from ..config import Config, Decay, Positive
from ..data.batch import Batch
from ..networks.roles import Roles
from ..run.draws import Draws
from .base import Calls, Setup
from .distillation import Distillation, DistillationOptions, Part


@dataclass(frozen=True)
class Jumps:
    """Where the student lands and where it should, both [B, C, T, H, W] at the noise level ``end`` [B].

    ``interval`` [B]: how far each sample jumped along its velocity, in flow matching sigma - end.
    """

    prediction: Tensor
    target: Tensor
    interval: Level
    end: Tensor

    def per_interval(self) -> Jumps:
        """The same in units of velocity: each sample divided by its interval.

        Latents differ by the interval times a velocity, so a loss on them fades with the length of the span (at
        1 - sigma_kappa the squared temporal coherence vanishes beside the Huber term). Divided, all weigh the same.
        """
        interval = column(self.interval, self.prediction)
        return Jumps(self.prediction / interval, self.target / interval, self.interval, self.end)


def consistency(
    x: Tensor,
    index: Tensor,
    start: Tensor,
    grid: NoiseGrid,
    student: VelocityModel,
    target: VelocityModel,
    teacher: VelocityModel,
    process: Process,
) -> Jumps:
    """One consistency pair per sample.

    x [B, C, T, H, W] at the noise levels ``grid.sigma(index)``, index [B]; start [B] is the first index of each
    sample's span, whose end point is ``grid.previous(start)``. Only the student's call carries gradient.
    """
    sigma, previous, end = (levels.to(x) for levels in (grid.sigma(index), grid.previous(index), grid.previous(start)))
    prediction = process.jump(x, student(x, sigma), sigma, end)
    with torch.no_grad():
        arrived = process.jump(x, teacher(x, sigma), sigma, previous)
        landed = process.jump(arrived, target(arrived, previous), previous, end)
        # At the first index of a span the teacher has arrived: its step itself is the target, sample by sample.
        landed = torch.where(column(index == start, x), arrived, landed)
    return Jumps(prediction, landed, process.interval(sigma, end), end)


class ConsistencyOptions(DistillationOptions):
    """What every consistency training needs to know."""

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

    @property
    def averaged_target(self) -> bool:
        return self.target_ema is not None


class Consistency(Distillation):
    """Beside student and teacher there is a target: the student, or its moving average."""

    Options = ConsistencyOptions
    options: ConsistencyOptions

    def __init__(self, setup: Setup, options: ConsistencyOptions, roles: Roles, part: Part):
        super().__init__(setup, options, roles, part)
        self.target = roles.target
        if options.target_ema is not None:
            self.averages["target"] = roles.average(self.trainable, options.target_ema)

    @classmethod
    def calls(cls, options: ConsistencyOptions, config: Config) -> Calls:
        """The teacher's, with guidance two, and the target's."""
        return Calls(plain=2 if options.guidance == 1 else 3)

    def spans(self) -> list[range]:
        """All where its part acts are one, whose jumps end where the part does."""
        return [self.part.indices(self)]

    def pairs(self, batch: Batch, draws: Draws) -> Jumps:
        """Consistency pairs at random noise levels of the spans."""
        spans = self.spans()
        index = draws.indices("index", range(spans[0].start, spans[-1].stop)).to(self.device)
        return self.pairs_at(index, batch, draws)

    def pairs_at(self, index: Tensor, batch: Batch, draws: Draws) -> Jumps:
        """Consistency pairs at these indices [B] of the grid, each in one of the spans."""
        start = index.clone()
        for span in self.spans():
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

    def compared(self, jumps: Jumps) -> Jumps:
        """What of jumps the losses compare: latents, or velocities."""
        return jumps.per_interval() if self.options.per_interval else jumps
