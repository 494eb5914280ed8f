"""What the network is told of noise level and guidance, rounded as in the run that experts were published with.

There the timestep was in bfloat16, 980 for 981.8, and the embedded guidance of 6 was 6000 in float32. ComfyUI tells
the timestep in float32, and casts the guidance to what the network computes in before it makes thousands of it: 6016 in
bfloat16, which is what the experts were trained with.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..backbone.host import is_of, network_of
from ..backbone.model import family_of
from .apply import applied_to

_GUIDANCE = "dcm_guidance"  # among the transformer options: what was asked for, in float32


def round_as_published(model: ModelPatcher) -> None:
    """Let the experts of this MODEL (a clone of one's own) be told what they were in the published run. It goes when
    they are taken off.

    The switch and the sampler's steps keep to the true noise levels. Raises ValueError for a MODEL without experts, and
    for a backbone whose experts nobody published. Where the host's own way is the published one, nothing changes.
    """
    applied, family = applied_to(model), family_of(model)
    if applied is None or family.published is None:
        raise ValueError("Experts over this backbone were not published in a run of their own: turn as_published off.")
    if family.published.bf16_timesteps:
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, applied.key, with_rounded_timestep)
    if family.embedded_guidance:
        exact = ExactGuidance(network_of(model))
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, applied.key, with_guidance)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, applied.key, exact)


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


def with_guidance(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
    """An APPLY_MODEL wrapper that keeps the guidance [B] from the host's cast."""
    options = transformer_options or {}
    if is_of(executor.class_obj, WrappersMP.APPLY_MODEL, with_guidance):
        options = {**options, _GUIDANCE: kwargs.get("guidance")}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


class ExactGuidance:
    """A DIFFUSION_MODEL wrapper: the network is told the guidance that was kept."""

    def __init__(self, network: Any):
        self.place = list(inspect.signature(type(network).forward).parameters)[1:].index("guidance")

    def __call__(self, executor, *arguments, **kwargs) -> Tensor:
        told = next((each[_GUIDANCE] for each in arguments if isinstance(each, dict) and _GUIDANCE in each), None)
        if told is not None:
            arguments = (*arguments[: self.place], told, *arguments[self.place + 1 :])
        return executor(*arguments, **kwargs)
