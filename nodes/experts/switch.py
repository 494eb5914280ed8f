"""The wrappers that give each network call, and its step cache, to the expert its noise level belongs to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dcm_core.errors import shortened
from ...dcm_core.expert.sidecar import Sidecar
from ...dcm_core.schedule.experts import EXPERTS, ExpertSchedule
from ..backbone.attention_inexact import ACTING
from ..backbone.host import RUN_SIGMAS, STEP_CACHE, dtype_of_computation, host_version, is_of, running_as

_STEP_CACHES = "dcm_step_caches"  # among a run's ``transformer_options``: the state of its step cache by expert
_BAKE = "Use DCM Bake, which puts each expert into the weights of a MODEL of its own"


class ExpertSwitch:
    """An APPLY_MODEL wrapper: the detail expert acts inside the calls whose sigma is at or below the switch.

    It sits outside any compiled region and looks at sigma, not at steps, so every sampler node and every shift is fine.
    ``only``: the one expert that acts in all calls, where the others are another MODEL's.
    """

    def __init__(self, schedule: ExpertSchedule, sidecar: Sidecar, only: str | None = None):
        self.schedule, self.sidecar, self.only = schedule, sidecar, only

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        """x [B, C, T, H, W] at t [B] (the host's sigmas; guidance stacks its conditions in B) to the denoised x.

        Raises ValueError for sigmas of both experts in one call, for a result that is not finite, and for layers of the
        detail expert that did not act.
        """
        options = transformer_options or {}
        # Asked here, of what this call is told: any node may change the noise level on the way from a guider.
        expert, model = self.only or self.schedule.acting(t), executor.class_obj
        if not is_of(model, WrappersMP.APPLY_MODEL, self):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        options = {**options, ACTING: expert}
        if expert == "detail":
            with self.sidecar.active(model.diffusion_model) as watch:
                denoised = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            refuse_bypassed(watch.bypassed(), "The detail expert", _BAKE)
        else:
            denoised = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if not torch.isfinite(denoised).all():
            where = f"{step_text(t, options.get(RUN_SIGMAS))}, by the {expert} expert"
            raise ValueError(f"NaN or Inf {where}. {likely_cause(model, x, c_crossattn)}")
        return denoised


class CachePerExpert:
    """A PREDICT_NOISE wrapper: the host's step cache (EasyCache, LazyCache) has a state for each expert, not one a run.

    Such a cache skips a call when the input has changed little, and answers with the change that the last call made.
    At the first call of the detail expert that would be the semantic expert's: so the cache begins there anew.
    """

    def __init__(self, schedule: ExpertSchedule):
        self.schedule = schedule

    def expert(self, guider: Any, sigma: Tensor, options: Mapping[str, Any]) -> str:
        """Whose call this is, at noise level ``sigma`` [B]."""
        return self.schedule.acting(sigma)

    def __call__(self, executor, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's signature
        """x [B, C, T, H, W] at timestep [B] (sigma in 0..1)."""
        options = model_options.get("transformer_options", {})  # of this run alone
        if STEP_CACHE in options:
            expert = self.expert(executor.class_obj, timestep, options)
            caches = options.setdefault(_STEP_CACHES, {})
            if not caches:
                caches |= {each: copy.deepcopy(options[STEP_CACHE]) for each in EXPERTS if each != expert}
                caches[expert] = options[STEP_CACHE]
            options[STEP_CACHE] = caches[expert]
        return executor(x, timestep, model_options, seed)


def refuse_bypassed(layers: list[str], who: str, remedy: str) -> None:
    """Raises ValueError naming the layers, if there are any, that ran without what changes them."""
    if layers:
        raise ValueError(
            f"{who} did not act on {shortened(layers)}: ComfyUI {host_version()} runs them in a way that "
            f"leaves it out. {remedy}, or use a backbone in bf16 or fp16."
        )


def sigmas_text(t: Tensor) -> str:
    return ", ".join(f"{sigma:.4f}" for sigma in t.flatten().unique().tolist())


def step_text(t: Tensor, run_sigmas: Tensor | None) -> str:
    """``in step 2 of 4 (sigma 0.9920)``; without the step for a sampler that does not tell its sigmas."""
    sigma = f"sigma {sigmas_text(t)}"
    if run_sigmas is None:
        return f"at {sigma}"
    step = int((run_sigmas[:-1] - t.flatten()[0]).abs().argmin()) + 1
    return f"in step {step} of {len(run_sigmas) - 1} ({sigma})"


def likely_cause(model: Any, x: Tensor, text: Tensor | None) -> str:
    """Where to look first: what went into the network, then what it computes with."""
    if not torch.isfinite(x).all():
        return "The latent was not finite before this call: look at the LATENT input and at the sampler's settings."
    if text is not None and not torch.isfinite(text).all():
        return "The conditioning is not finite: look at the text encoder (in fp16 some overflow)."
    if dtype_of_computation(running_as(model)) == torch.float16:
        return "The network computes in float16, which overflows: start ComfyUI with --bf16-unet or --fp32-unet."
    return (
        "Likely causes: an attention backend that overflows (try without --use-sage-attention), a quantised backbone "
        "without its scales, a strength far from 1, or a damaged backbone or expert file (download it again)."
    )
