"""The solver grid of a backbone: the noise levels the experts are trained on (DCM, arXiv 2506.03123).

A grid of N points is uniform in the solver's time ``u``, at ``1 / N .. 1``. How much noise a ``u`` stands for is
the curve's affair (curves.py): flow matching, or the zero-terminal-SNR DDPM of CogVideoX. Every sigma here
and in the schedules is one that ComfyUI's samplers take for that backbone, so for v-prediction
``sqrt((1 - a) / a)``, which is not in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from .curves import CURVES, TIMESTEPS, Curve

# The lowest of the backbone's 1000 timesteps. In training the detail expert lands on sigma(0.001) and not
# on 0: no network was ever asked for a velocity at sigma 0.
U_MIN = 0.001


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

    ``prediction`` "flow" or "v_prediction"; ``shift`` is what moves the levels towards noise: of the time in flow
    matching, of the signal-to-noise ratio in v-prediction.
    Raises ValueError for a shift outside 0.01..100, points outside 2..999 (v-prediction: 2..500, since its levels
    are timesteps), and another prediction.
    """

    shift: float = 17.0
    points: int = 50
    prediction: str = "flow"

    def __post_init__(self) -> None:
        if self.prediction not in CURVES:
            known = " and ".join(f'"{name}"' for name in CURVES)
            raise ValueError(f"prediction {self.prediction!r} is not supported by this version: it knows {known}.")
        object.__setattr__(self, "shift", real_number("shift", self.shift))
        if not 0.01 <= self.shift <= 100:
            raise ValueError(f"shift is {self.shift}: use a number from 0.01 to 100.")
        # With more points, the first level would no longer lie above sigma_min.
        most = 999 if self.prediction == "flow" else 500
        if not 2 <= whole_number("points", self.points) <= most:
            raise ValueError(f"points is {self.points}: use a number from 2 to {most}.")

    @cached_property
    def curve(self) -> Curve:
        """What tells noise levels, timesteps and times apart for this backbone."""
        return CURVES[self.prediction](self.shift)

    @property
    def sigma_min(self) -> float:
        """End point of the detail expert in training, and ``P[0]``."""
        return self.curve.sigma(U_MIN)

    @property
    def sigma_max(self) -> float:
        """Pure noise: 1 in flow matching, about 4519 in v-prediction."""
        return self.curve.highest

    @property
    def sigmas(self) -> Tensor:
        """All levels ``S[0..points-1]``: float64 [points], ascending, the last one :attr:`sigma_max`."""
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
        return self.curve.sigma((index + 1) / self.points)

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
        """Index of the level nearest to a noise level."""
        return int((self.sigmas - sigma).abs().argmin())

    def cut(self, name: str, time: float) -> int:
        """Index of the level nearest to a timestep / 1000, which in flow matching is the sigma, to cut a run there.

        Raises ValueError about ``name`` for one off the grid, and for pure noise, above which there is no step.
        """
        times = self.curve.timestep(self.sigmas).to(torch.float64) / TIMESTEPS
        # A hand-typed value has three decimals, so the lower end is given as much room.
        index = int((times - time).abs().argmin()) if math.isfinite(time) and time >= times[0] - 5e-4 else -1
        if not 0 <= index < self.points - 1:
            why = " A cut at pure noise leaves no step above it." if index > 0 else ""
            raise ValueError(
                f"{name} is {time:g}: on this grid of {self.points} points at shift {self.shift:g}, choose a "
                f"{self.curve.kappa_unit} from {float(times[0]):.4f} to {float(times[-2]):.4f}.{why}"
            )
        return index

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
