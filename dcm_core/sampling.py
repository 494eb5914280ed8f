"""Few-step sampling outside ComfyUI, over given sigmas, with the expert that each noise level asks for.

A *velocity model* here is any ``model(x, sigma, *conditions) -> velocity`` with latents ``x`` [B, C, T, H, W]
(any shape with a leading batch works), ``sigma`` [B] and a velocity like ``x``. The conditions are the model's
own. What a velocity means is the backbone's process (process.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .process import FLOW, Process
from .schedule.experts import ExpertSchedule
from .schedule.sigmas import check_sigmas

VelocityModel = Callable[..., Tensor]
# step number from 0, x after the step, and the model's estimate of the clean latents, both like x
Callback = Callable[[int, Tensor, Tensor], None]


@torch.no_grad()
def euler(
    model: VelocityModel,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    callback: Callback | None = None,
    process: Process = FLOW,
) -> Tensor:
    """Follow the velocity from ``sigmas[0]`` to ``sigmas[-1]``, one jump per pair.

    In flow matching these are Euler steps, in v-prediction steps of DDIM without fresh noise (arXiv 2010.02502); both
    are what ComfyUI's euler does, which holds ``x * sqrt(1 + sigma^2)`` in v-prediction where this holds ``x`` of
    unit variance. ``x``: latents at ``sigmas[0]`` (pure noise at ``process.highest``). The state is kept in float32 or
    better, whatever the dtype of ``x`` and of the velocities, because half precision would round the small steps near
    sigma 1 away; the result has that dtype. ``callback(step, x, x0)`` is called after every step.
    Raises ValueError for sigmas no sampler can run on, FloatingPointError when a velocity is not finite.
    """
    if not x.is_floating_point():
        raise ValueError(f"latents must be floating-point, got {x.dtype}.")
    levels = check_sigmas(sigmas, process.highest).tolist()
    steps = len(levels) - 1
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for step, (sigma, following) in enumerate(zip(levels, levels[1:], strict=False)):
        try:
            velocity = model(x, x.new_full((x.shape[0],), sigma))
            check_finite(velocity, "model", sigma)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step + 1} of {steps}: {error}") from None
        if velocity.shape != x.shape:
            raise ValueError(f"the model returned {list(velocity.shape)} for latents {list(x.shape)}.")
        velocity = velocity.to(x.dtype)
        clean = process.jump(x, velocity, sigma, 0.0)
        x = process.jump(x, velocity, sigma, following)
        if callback is not None:
            callback(step, x, clean)
    return x


def with_experts(semantic: VelocityModel, detail: VelocityModel, schedule: ExpertSchedule) -> VelocityModel:
    """A velocity model that lets the expert act that ``schedule`` names for the sigma of each call.

    Raises ValueError for a call with sigmas of both experts, and FloatingPointError naming the expert when its
    velocity is not finite.
    """
    experts = {"semantic": semantic, "detail": detail}

    def model(x: Tensor, sigma: Tensor, *conditions: Any) -> Tensor:
        acting = schedule.acting(sigma)
        velocity = experts[acting](x, sigma, *conditions)
        check_finite(velocity, f"{acting} expert", sigma)
        return velocity

    return model


def guided(model: VelocityModel, cond: Any, uncond: Any, scale: float) -> VelocityModel:
    """Classifier-free guidance: ``v = v_uncond + scale * (v_cond - v_uncond)``.

    ``cond`` and ``uncond`` are the conditions of the two calls. Scale 1 asks the network once, without
    ``uncond``.
    """

    def guided_model(x: Tensor, sigma: Tensor) -> Tensor:
        conditional = model(x, sigma, cond)
        if scale == 1:
            return conditional
        unconditional = model(x, sigma, uncond)
        return unconditional + scale * (conditional - unconditional)

    return guided_model


def check_finite(velocity: Tensor, source: str, sigma: Tensor | float) -> None:
    """Raise FloatingPointError instead of ending in a black video: NaN or Inf in a velocity [B, ...].

    ``sigma``: one for all, or [B]; the message names ``source`` and the noise level of the first sample at
    fault.
    """
    finite = torch.isfinite(velocity)
    if finite.all():
        return
    nan = int(torch.isnan(velocity).sum())
    inf = int((~finite).sum()) - nan
    if isinstance(sigma, Tensor):
        faulty = (~finite).flatten(1).any(dim=1).to(sigma.device)
        sigma = float(sigma[faulty][0])
    raise FloatingPointError(
        f"the {source} returned {nan} NaN and {inf} Inf in {velocity.numel()} values at sigma {sigma:.4f}. "
        "Likely causes: float16 overflow (use bfloat16 or float32), an expert made for another backbone, or "
        "an expert strength far from 1."
    )
