"""Consistency pairs along the teacher's trajectory: the mathematics that the experts and the baselines share.

The noise grid is cut into spans of neighbouring indices. Inside a span the student learns to jump from any sigma
straight to the span's end point. Where it should land is told by one Euler step of the teacher and the target
network's jump from there (DCM, arXiv 2506.03123; consistency models, arXiv 2303.01469).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcm_core.process import Process, column
from dcm_core.sampling import VelocityModel
from dcm_core.schedule.grid import NoiseGrid


@dataclass(frozen=True)
class Jumps:
    """Where the student lands and where it should, both [B, C, T, H, W] at the noise level ``end`` [B].

    ``interval`` [B]: how far each sample jumped, sigma - end.
    """

    prediction: Tensor
    target: Tensor
    interval: Tensor
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
    return Jumps(prediction, landed, sigma - end, end)
