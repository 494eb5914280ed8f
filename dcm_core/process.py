"""The noising process of a backbone: how latents and noise are mixed, and where a velocity leads.

* flow matching (Wan, HunyuanVideo): ``x = (1 - sigma) * x0 + sigma * noise``, sigma in 0..1; the velocity estimates
  ``noise - x0``, the derivative of ``x`` in sigma.
* v-prediction (CogVideoX): ``x = cos(p) * x0 + sin(p) * noise`` with ``p = atan(sigma)``; the velocity estimates
  ``cos(p) * noise - sin(p) * x0``, the derivative of ``x`` in ``p``.

Latents are [B, C, T, H, W] or any shape with a leading batch; a noise level is a number, or [B], one for each sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from .schedule.curves import Curve, FlowMatching
from .schedule.grid import NoiseGrid

Level = float | Tensor
Some = TypeVar("Some", float, Tensor, Level)


@dataclass(frozen=True)
class Process(ABC):
    """``curve``: what the network is told of a noise level."""

    curve: Curve

    @property
    def highest(self) -> float:
        """The sigma of pure noise."""
        return self.curve.highest

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told at these noise levels: float32 of the same shape, 0..1000."""
        return self.curve.timestep(sigma)

    @abstractmethod
    def shares(self, sigma: Level) -> tuple[Level, Level]:
        """(share of the clean latents, share of the noise) in ``x`` at a noise level."""

    @abstractmethod
    def jump(self, x: Tensor, velocity: Tensor, sigma: Level, end: Level) -> Tensor:
        """From noise level ``sigma`` straight to ``end`` along the velocity; to 0 it is the estimate of x0."""

    @abstractmethod
    def velocity(self, x: Tensor, landed: Tensor, sigma: Level, end: Level) -> Tensor:
        """The one along which :meth:`jump` leads from ``x`` at ``sigma`` to ``landed`` at another level ``end``."""

    @abstractmethod
    def interval(self, sigma: Level, end: Level) -> Level:
        """How far a jump to a lower level goes along its velocity: what a change of it by 1 moves the landing by."""

    def noised(self, latents: Tensor, noise: Tensor, sigma: Level) -> Tensor:
        """Clean latents at a noise level."""
        clean, noisy = self.shares(sigma)
        return column(noisy, latents) * noise + column(clean, latents) * latents

    def renoised(self, x: Tensor, noise: Tensor, sigma: Level, higher: Level, linear: bool = False) -> Tensor:
        """``x`` at noise level sigma taken up to ``higher`` >= sigma with fresh noise.

        The clean part is then as strong as at ``higher``, and so is the noise, old and fresh together. ``linear``:
        add the shares of both noises and not their variances, as the published training has it, which leaves the sum
        somewhat below ``higher``. Of two clips made so with one noise neither tells; beside a clip of ``noised`` it
        gives itself away by its noise level.
        """
        (clean, noisy), (clean_there, noisy_there) = self.shares(sigma), self.shares(higher)
        kept = clean_there / clean
        old = kept * noisy
        fresh = noisy_there - old if linear else _root(noisy_there * noisy_there - old * old)
        return column(kept, x) * x + column(fresh, x) * noise


class Flow(Process):
    """Flow matching."""

    def shares(self, sigma: Level) -> tuple[Level, Level]:
        return 1 - sigma, sigma

    def jump(self, x: Tensor, velocity: Tensor, sigma: Level, end: Level) -> Tensor:
        """A step of Euler."""
        return x + column(end - sigma, x) * velocity

    def velocity(self, x: Tensor, landed: Tensor, sigma: Level, end: Level) -> Tensor:
        return (landed - x) / column(end - sigma, x)

    def interval(self, sigma: Level, end: Level) -> Level:
        return sigma - end


class VPrediction(Process):
    """v-prediction."""

    def shares(self, sigma: Level) -> tuple[Level, Level]:
        return _cosine_sine(_angle(sigma))

    def jump(self, x: Tensor, velocity: Tensor, sigma: Level, end: Level) -> Tensor:
        """A step of DDIM without fresh noise (arXiv 2010.02502): it turns (x, velocity) by the angle between levels."""
        cosine, sine = _cosine_sine(_angle(sigma) - _angle(end))
        return column(cosine, x) * x - column(sine, x) * velocity

    def velocity(self, x: Tensor, landed: Tensor, sigma: Level, end: Level) -> Tensor:
        cosine, sine = _cosine_sine(_angle(sigma) - _angle(end))
        return (column(cosine, x) * x - landed) / column(sine, x)

    def interval(self, sigma: Level, end: Level) -> Level:
        """Of angles: sigmas go up to 4519, and a jump turns by a quarter at most."""
        _, sine = _cosine_sine(_angle(sigma) - _angle(end))
        return sine


FLOW = Flow(FlowMatching(1.0))  # its timesteps and jumps know no shift


def process_of(grid: NoiseGrid) -> Process:
    """The process of the backbones with this grid."""
    return {"flow": Flow, "v_prediction": VPrediction}[grid.prediction](grid.curve)


def column(level: Some, like: Tensor) -> Some:
    """One number per sample [B] shaped to multiply ``like`` [B, ...]; a plain number as it is."""
    return level.view(-1, *[1] * (like.ndim - 1)) if isinstance(level, Tensor) and level.ndim else level


def _angle(sigma: Level) -> Level:
    return sigma.atan() if isinstance(sigma, Tensor) else math.atan(sigma)


def _cosine_sine(angle: Level) -> tuple[Level, Level]:
    return (angle.cos(), angle.sin()) if isinstance(angle, Tensor) else (math.cos(angle), math.sin(angle))


def _root(variance: Level) -> Level:
    # Below 0 by rounding only, where there is nothing to add.
    return variance.clamp(min=0).sqrt() if isinstance(variance, Tensor) else math.sqrt(max(variance, 0.0))
