"""One sample() call with the host's own machinery: its noise, its samplers, its masks, its previews."""

from collections.abc import Callable

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.schedule.experts import ExpertSchedule
from .notes import CallWatch

# What an empty latent of newer hosts says about the VAE it is meant for.
_EMPTY_LATENT_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


class ExpertGuider(comfy.samplers.CFGGuider):
    """The host's guider, with a cfg of its own for the steps of each expert.

    `on_run` is called with the sigmas of each run before it begins.
    """

    def __init__(self, model: ModelPatcher, schedule: ExpertSchedule, semantic_cfg: float, detail_cfg: float):
        super().__init__(model)
        self.schedule, self.cfgs = schedule, {"semantic": semantic_cfg, "detail": detail_cfg}
        self.watch = CallWatch()
        self.on_run: Callable[[Tensor], None] = lambda sigmas: None

    def begin(self, sigmas: Tensor) -> None:
        self.watch.begin(sigmas)
        if len(sigmas) > 1:  # less is no run, and the host's samplers let it pass
            self.on_run(sigmas)

    def sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        self.begin(sigmas)
        return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's signature
        self.watch.call(timestep)
        self.set_cfg(self.cfgs[self.schedule.acting(timestep)])
        return super().predict_noise(x, timestep, model_options, seed)


def sample(
    guider: ExpertGuider, sampler_name: str, sigmas: Tensor, latent: dict, seed: int, add_noise: bool = True
) -> dict:
    """A LATENT sampled from `latent` down `sigmas` [N + 1], exactly as the stock sampler nodes would.

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
    kept = {key: value for key, value in latent.items() if key not in _EMPTY_LATENT_RATIOS}
    return {**kept, "samples": samples.to(comfy.model_management.intermediate_device())}


def fitting_latent(model: ModelPatcher, latent: dict) -> Tensor:
    """The latent's samples [B, C, T, H, W]; an empty one of another kind is made to fit, as every stock node does.

    Raises ValueError telling the shape the MODEL needs.
    """
    ratios = {key: latent[key] for key in _EMPTY_LATENT_RATIOS if key in latent}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
    wanted = model.get_model_object("latent_format")
    if samples.ndim != wanted.latent_dimensions + 2 or samples.shape[1] != wanted.latent_channels:
        raise ValueError(
            f"The LATENT has the shape {list(latent['samples'].shape)}, but this MODEL takes [batch, "
            f"{wanted.latent_channels}, frames, height, width]. Make an empty one with EmptyHunyuanLatentVideo (for "
            "Shapes: with DCM Shapes World), or encode a video with the VAE of this MODEL."
        )
    if not torch.isfinite(samples).all():
        raise ValueError("The LATENT holds NaN or Inf: look at the node that made it.")
    return samples
