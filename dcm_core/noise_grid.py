"""The solver grid of a flow-matching backbone: the noise levels the experts are trained on.

Flow matching mixes clean latents and noise as ``x_sigma = sigma * noise + (1 - sigma) * x0`` with sigma in
0..1; the network is told the timestep ``t = 1000 * sigma``. The grid is uniform in ``u`` and shifted
towards high noise: ``sigma(u) = shift * u / (1 + (shift - 1) * u)``. The experts are trained on its points
(DCM, arXiv 2506.03123).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, overload

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

# The lowest of the backbone's 1000 timesteps. In training the detail expert lands on sigma(0.001) and not
# on 0: no network was ever asked for a velocity at sigma 0.
U_MIN = 0.001


def shift_sigma(u: Number, shift: float) -> Number:
    """Noise level of the unshifted time ``u`` in 0..1."""
    # Written so that pure noise comes out as exactly 1 at every shift.
    return shift * u / (shift * u + (1 - u))


def unshift_sigma(sigma: Number, shift: float) -> Number:
    """Inverse of :func:`shift_sigma`."""
    return sigma / (sigma + shift * (1 - sigma))


def whole_number(name: str, value: int) -> int:
    """``value`` if it is an int. Raises ValueError naming it otherwise (a bool, a float, NaN)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    return value


def real_number(name: str, value: float) -> float:
    """``value`` as a finite float. Raises ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}.")
    return float(value)


@dataclass(frozen=True)
class NoiseGrid:
    """``points`` noise levels in ascending order, ``S[i] = sigma((i + 1) / points)``; the last is pure noise.

    Raises ValueError for a shift outside 0.01..100, points outside 2..999, and a prediction other than
    "flow".
    """

    shift: float = 17.0
    points: int = 50
    prediction: str = "flow"

    def __post_init__(self) -> None:
        if self.prediction != "flow":
            raise ValueError(
                f"prediction {self.prediction!r} is not supported by this version: it knows flow-matching "
                'backbones with velocity prediction only ("flow").'
            )
        object.__setattr__(self, "shift", real_number("shift", self.shift))
        if not 0.01 <= self.shift <= 100:
            raise ValueError(f"shift is {self.shift}: use a number from 0.01 to 100.")
        # From 1000 points on, the first level would no longer lie above sigma_min.
        if not 2 <= whole_number("points", self.points) <= 999:
            raise ValueError(f"points is {self.points}: use a number from 2 to 999.")

    @property
    def sigma_min(self) -> float:
        """End point of the detail expert in training, and ``P[0]``."""
        return shift_sigma(U_MIN, self.shift)

    @property
    def sigmas(self) -> Tensor:
        """All levels ``S[0..points-1]``: float64 [points], ascending, the last one exactly 1."""
        return torch.tensor([self.sigma(index) for index in range(self.points)], dtype=torch.float64)

    @overload
    def sigma(self, index: int) -> float: ...

    @overload
    def sigma(self, index: Tensor) -> Tensor: ...

    def sigma(self, index):
        """``S[index]``: a float for an int, float32 [B] on the same device for an integer tensor [B]."""
        if isinstance(index, Tensor):
            return self._gather(self.sigmas, index)
        self._check_index(index, index)
        return shift_sigma((index + 1) / self.points, self.shift)

    @overload
    def previous(self, index: int) -> float: ...

    @overload
    def previous(self, index: Tensor) -> Tensor: ...

    def previous(self, index):
        """``P[index]``, the next lower level: ``S[index - 1]``, or ``sigma_min`` for index 0. Types as
        :meth:`sigma`."""
        if isinstance(index, Tensor):
            start = torch.tensor([self.sigma_min], dtype=torch.float64)
            return self._gather(torch.cat([start, self.sigmas[:-1]]), index)
        self._check_index(index, index)
        return self.sigma(index - 1) if index else self.sigma_min

    def nearest(self, sigma: float) -> int:
        """Index of the level nearest to ``sigma``. Raises ValueError for a sigma off the grid."""
        lowest = self.sigma(0)
        # A hand-typed value has three decimals, so the ends are given as much room.
        if not (math.isfinite(sigma) and lowest - 5e-4 <= sigma <= 1 + 5e-4):
            raise ValueError(
                f"sigma {sigma} lies outside the grid of {self.points} points at shift {self.shift:g}: "
                f"choose a value from {lowest:.4f} to 1."
            )
        return int((self.sigmas - sigma).abs().argmin())

    def _gather(self, table: Tensor, index: Tensor) -> Tensor:
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise ValueError(f"grid indices must be integers, got a tensor of {index.dtype}.")
        if index.numel():
            self._check_index(int(index.min()), int(index.max()))
        # float32, so that an expression with float32 latents is not promoted to float64.
        return table.to(index.device, torch.float32)[index.long()]

    def _check_index(self, lowest: int, highest: int) -> None:
        # Negative indices would silently count from the noisy end.
        if lowest < 0 or highest >= self.points:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"grid index {wrong} lies outside 0..{self.points - 1}.")
