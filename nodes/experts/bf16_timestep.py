"""The timestep in bfloat16, as the published HunyuanVideo pipeline tells it to its network: 981.8 becomes 980."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..backbone.host import is_of
from .apply import applied_to


def round_timesteps(model: ModelPatcher) -> None:
    """Let the experts of this MODEL (a clone of one's own) be told rounded timesteps. It goes when they are taken off.

    The switch and the sampler's steps keep to the true noise levels. Raises ValueError for a MODEL without experts, and
    for a backbone that is no flow-matching one: its noise levels are no timesteps / 1000.
    """
    applied = applied_to(model)
    if applied is None or applied.schedule.grid.prediction != "flow":
        raise ValueError("bf16_timestep is how HunyuanVideo was published: turn it off for this backbone.")
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, applied.key, with_rounded_timestep)


def with_rounded_timestep(executor, x: Tensor, t: Tensor, *arguments, **options) -> Tensor:
    """An APPLY_MODEL wrapper: x [B, C, T, H, W] at t [B] (sigma in 0..1) to the denoised x.

    From the network's velocity the host makes x - sigma * velocity, with the sigma it was called with: the rounded
    one here, so that its step is stretched to the true one.
    """
    if not is_of(executor.class_obj, WrappersMP.APPLY_MODEL, with_rounded_timestep):
        return executor(x, t, *arguments, **options)
    rounded = (1000 * t).to(torch.bfloat16).to(t.dtype) / 1000
    denoised = executor(x, rounded, *arguments, **options)
    return x + (denoised - x) * (t / rounded).reshape(-1, *[1] * (x.ndim - 1))
