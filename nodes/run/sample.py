"""One sample() call with the host's own machinery: its noise, its samplers, its masks, its previews."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..backbone.host import EMPTY_LATENT_RATIOS, latent_format_of
from .expert_guider import ExpertGuider


def sample(
    guider: ExpertGuider,
    sampler_name: str,
    sigmas: Tensor,
    latent: dict[str, Any],
    seed: int,
    add_noise: bool = True,
) -> dict[str, Any]:
    """A LATENT sampled from ``latent`` down ``sigmas`` [N + 1], exactly as the stock sampler nodes would.

    Raises ValueError for a latent that does not fit the MODEL, and for a result that is not finite.
    """
    if sampler_name not in comfy.samplers.SAMPLER_NAMES:  # some hosts let any text through
        raise ValueError(f"There is no sampler {sampler_name!r} here: choose euler, or another of the list.")
    model = guider.model_patcher
    start = fitting_latent(model, latent)
    if add_noise:
        noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
    else:
        noise = torch.zeros_like(start, device="cpu")
    samples = guider.sample(
        noise,
        start,
        comfy.samplers.sampler_object(sampler_name),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    if not torch.isfinite(samples).all():
        raise ValueError(
            f"The result of the sampler {sampler_name} holds NaN or Inf, though no expert returned any: use euler, and "
            "if this MODEL has no experts, let it compute in bfloat16 or float32 (--bf16-unet, --fp32-unet)."
        )
    kept = {key: value for key, value in latent.items() if key not in EMPTY_LATENT_RATIOS}
    return {**kept, "samples": samples.to(comfy.model_management.intermediate_device())}


def fitting_latent(model: ModelPatcher, latent: dict[str, Any]) -> Tensor:
    """The latent's samples [B, C, T, H, W]; an empty one of another kind is made to fit, as every stock node does.

    Raises ValueError telling the shape the MODEL needs.
    """
    ratios = {key: latent[key] for key in EMPTY_LATENT_RATIOS if key in latent}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
    wanted = latent_format_of(model)
    if samples.ndim != wanted.latent_dimensions + 2 or samples.shape[1] != wanted.latent_channels:
        raise ValueError(
            f"The LATENT has the shape {list(latent['samples'].shape)}, but this MODEL takes [batch, "
            f"{wanted.latent_channels}, frames, height, width]. Make an empty one with EmptyHunyuanLatentVideo (for "
            "Shapes: with DCM Shapes World), or encode a video with the VAE of this MODEL."
        )
    if not torch.isfinite(samples).all():
        raise ValueError("The LATENT holds NaN or Inf: look at the node that made it.")
    return samples
