"""Lists of noise levels as a sampler takes them: N + 1 falling values for N steps, usually from pure noise to 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_sigmas(sigmas: Tensor | Sequence[float], highest: float = 1.0) -> Tensor:
    """The list as a tensor [N + 1], if a sampler can run on it; a floating tensor keeps dtype and device.

    Values lie in 0..highest, the backbone's pure noise (1 in flow matching), and fall from each to the next. A
    list that ends above 0 is a partial run.
    Raises ValueError that names the first value at fault.
    """
    if not isinstance(sigmas, Tensor):
        sigmas = torch.tensor([float(value) for value in sigmas], dtype=torch.float32)
    if sigmas.ndim != 1:
        raise ValueError(f"sigmas must be one list, got a tensor of shape {list(sigmas.shape)}.")
    if not sigmas.is_floating_point():
        raise ValueError(f"sigmas must be floating-point noise levels in 0..{highest:g}, got {sigmas.dtype}.")
    if len(sigmas) < 2:
        raise ValueError(f"sigmas has {len(sigmas)} value(s), which makes no step: give N + 1 values for N steps.")
    values = sigmas.tolist()
    for position, value in enumerate(values):
        # Written so that NaN fails too; at some shifts the host's float32 table ends a rounding error above
        # 1.
        if not 0 <= value <= highest * (1 + 1e-6):
            kind = "flow-matching" if highest == 1 else "v-prediction"
            remedy = "divide timesteps by 1000" if highest == 1 else "they are not timesteps: use DCM Sigmas"
            raise ValueError(
                f"sigmas[{position}] is {value}, but the noise levels of a {kind} model lie in 0..{highest:g} "
                f"({remedy})."
            )
    for position in range(1, len(values)):
        if not values[position] < values[position - 1]:
            raise ValueError(
                f"sigmas must fall from each value to the next, but sigmas[{position - 1}] is "
                f"{values[position - 1]:.6g} and sigmas[{position}] is {values[position]:.6g}: "
                "remove or reorder values."
            )
    return sigmas


def step_window(
    sigmas: Tensor | Sequence[float],
    start_at_step: int = 0,
    end_at_step: int | None = None,
    highest: float = 1.0,
) -> Tensor:
    """The part of a run that does steps ``start_at_step`` up to, not including, ``end_at_step``.

    ``highest``: as in :func:`check_sigmas`.

    ``end_at_step`` None or beyond the last step means to the end, as in the host's advanced sampler. An end
    before the last step leaves noise in the result; the run that continues from it starts at that number.
    Raises ValueError if no step is left; ``end_at_step=0`` would be a cut at sigma 1, where all is noise yet.
    """
    sigmas = check_sigmas(sigmas, highest)
    steps = len(sigmas) - 1
    end = steps if end_at_step is None else end_at_step
    if not 0 <= start_at_step < steps:
        raise ValueError(f"start_at_step is {start_at_step}, but this run has {steps} step(s): use 0 to {steps - 1}.")
    if end <= start_at_step:
        raise ValueError(f"end_at_step is {end_at_step}, which leaves no step: use {start_at_step + 1} to {steps}.")
    return sigmas[start_at_step : end + 1]


def is_part_of(whole: Tensor, sigmas: Tensor) -> bool:
    """Do these noise levels follow each other in ``whole``? Levels that were rounded to be read are the same."""
    if len(sigmas) > len(whole):
        return False
    parts = whole.unfold(0, len(sigmas), 1)
    return bool(torch.isclose(parts, sigmas.to(parts), rtol=1e-3, atol=1e-6).all(1).any())
