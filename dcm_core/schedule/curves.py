"""How noise and the network's timestep follow from time: one curve per kind of backbone.

``u`` in 0..1 is the time a solver counts in, from clean latents to pure noise. A *sigma* is a noise level as
ComfyUI's samplers take it; what it measures depends on the backbone:

* flow matching: ``x = sigma * noise + (1 - sigma) * x0``, sigma in 0..1.
* v-prediction: ``x = (x0 + sigma * noise) / sqrt(1 + sigma^2)``, so ``sigma = sqrt((1 - a) / a)`` of the
  DDPM's cumulative alpha ``a``, from 0 to the thousands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

TIMESTEPS = 1000


def shift_sigma(u: Number, shift: float) -> Number:
    """Noise level of the unshifted time ``u`` in 0..1."""
    # Written so that pure noise comes out as exactly 1 at every shift.
    return shift * u / (shift * u + (1 - u))


def unshift_sigma(sigma: Number, shift: float) -> Number:
    """Inverse of :func:`shift_sigma`."""
    return sigma / (sigma + shift * (1 - sigma))


class Curve(Protocol):
    """``unit`` is what people name a noise level by, ``kappa_unit`` its like in 0..1 for a boundary typed by hand."""

    unit: ClassVar[str]
    kappa_unit: ClassVar[str]

    @property
    def highest(self) -> float:
        """The sigma of pure noise."""
        ...

    def sigma(self, u: float) -> float:
        """The noise level at time ``u``, 0.001..1."""
        ...

    def u(self, sigma: float) -> float:
        """The time of a noise level."""
        ...

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told at these noise levels: float32 of the same shape, 0..1000."""
        ...

    def between(self, low: float, high: float) -> float:
        """The noise level midway in timesteps between two others."""
        ...

    def label(self, sigma: float, digits: int) -> str:
        """A noise level in ``unit``."""
        ...

    def labels(self, sigmas: Iterable[float], digits: int) -> list[str]:
        """Several of them."""
        return [self.label(sigma, digits) for sigma in sigmas]


@dataclass(frozen=True)
class FlowMatching(Curve):
    """``sigma(u) = shift * u / (1 + (shift - 1) * u)``, timestep = 1000 sigma (Wan, HunyuanVideo)."""

    shift: float
    unit: ClassVar[str] = "sigma"
    kappa_unit: ClassVar[str] = "sigma"
    highest: float = field(default=1.0, init=False, repr=False, compare=False)

    def sigma(self, u: float) -> float:
        return shift_sigma(u, self.shift)

    def u(self, sigma: float) -> float:
        return unshift_sigma(sigma, self.shift)

    def timestep(self, sigma: Tensor) -> Tensor:
        return TIMESTEPS * sigma.to(torch.float32)

    def between(self, low: float, high: float) -> float:
        return (low + high) / 2

    def label(self, sigma: float, digits: int) -> str:
        return f"{sigma:.{digits}f}"


@dataclass(frozen=True)
class ZeroTerminalSNR(Curve):
    """CogVideoX's 1000 DDPM noise levels, at which the network predicts ``v = sqrt(a) noise - sqrt(1 - a) x0``.

    ``shift`` divides the signal-to-noise ratio (3.0 for the 2B, 1.0 for the 5B models). The ratio is then rescaled to
    end at zero (arXiv 2305.08891), and grids count their timesteps back from 999 ("trailing").
    """

    shift: float
    unit: ClassVar[str] = "timestep"
    kappa_unit: ClassVar[str] = "timestep / 1000"

    @property
    def table(self) -> tuple[float, ...]:
        """The noise level of every timestep, 0 to 999."""
        return _zero_terminal_snr_sigmas(self.shift)

    @property
    def highest(self) -> float:
        return self.table[-1]

    def sigma(self, u: float) -> float:
        return self.table[round(TIMESTEPS * u) - 1]

    def u(self, sigma: float) -> float:
        return (self._nearest(sigma) + 1) / TIMESTEPS if sigma > 0 else 0.0

    def timestep(self, sigma: Tensor) -> Tensor:
        # The nearest one by the logarithm, as ComfyUI does it. Neighbours lie 0.2 % apart, far beyond float32.
        edges = self._edges.to(sigma.device)
        return torch.bucketize(sigma.to(torch.float32), edges).to(torch.float32)

    def between(self, low: float, high: float) -> float:
        # The edge of the middle timestep's range, so that `sigma <= switch` says `timestep <= middle`.
        middle = (self._nearest(low) + self._nearest(high)) // 2
        return (self.table[middle] * self.table[middle + 1]) ** 0.5

    def label(self, sigma: float, digits: int) -> str:
        return str(self._nearest(sigma))

    def _nearest(self, sigma: float) -> int:
        return int(self.timestep(torch.tensor(sigma)))

    @cached_property
    def _edges(self) -> Tensor:
        table = torch.tensor(self.table, dtype=torch.float64)
        return (table[:-1] * table[1:]).sqrt().to(torch.float32)


CURVES: dict[str, type[FlowMatching] | type[ZeroTerminalSNR]] = {
    "flow": FlowMatching,
    "v_prediction": ZeroTerminalSNR,
}

# Of the DDPM that CogVideoX was trained with ("scaled linear").
_FIRST_BETA, _LAST_BETA = 0.00085, 0.012
# Zero as ComfyUI puts it: sigma ends at 4519 and not at infinity, which no sampler could start from.
_TERMINAL_ALPHA = 4.8973451890853435e-08


@lru_cache(maxsize=32)
def _zero_terminal_snr_sigmas(shift: float) -> tuple[float, ...]:
    betas = torch.linspace(_FIRST_BETA**0.5, _LAST_BETA**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0)
    root = (alpha / (shift + (1 - shift) * alpha)).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha = root**2
    # At shifts above those in use, the last but one would be smaller still.
    alpha[-1] = min(_TERMINAL_ALPHA, 0.9 * float(alpha[-2]))
    return tuple(((1 - alpha) / alpha).sqrt().tolist())
