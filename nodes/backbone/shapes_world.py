"""The Shapes world in the host's own terms: its backbone as a MODEL, its encoders as stand-ins for CLIP and VAE."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.expert.by_steps import Pair, by_steps
from ...dcm_core.expert.file import load_expert
from ...dcm_core.expert.layers import Expert
from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.shapes import autoencoder, captions, network, weights
from .host import model_from_state, set_maker


class ShapesLatents(comfy.latent_formats.LatentFormat):
    """Latents [B, 16, T, H, W] of unit variance, used unscaled; the factors give previews their true colours."""

    latent_channels = autoencoder.CHANNELS
    latent_dimensions = 3
    spacial_downscale_ratio = autoencoder.SPACE_FACTOR  # read by newer hosts, spelled as they spell it
    temporal_downscale_ratio = autoencoder.TIME_FACTOR

    def __init__(self):
        self.latent_rgb_factors, self.latent_rgb_factors_bias = autoencoder.latent_rgb_factors()


class ShapesClip:
    """What the host's text nodes ask of a CLIP, answered by the weightless word table."""

    def tokenize(self, text: str, **_) -> str:
        captions.split_words(text)  # an unknown word is an error at the prompt, not at the sampler
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **_) -> list:
        return [[captions.encode_text([tokens]), {}]]


class ShapesVae:
    """What the host's image nodes ask of a VAE, answered by the fixed linear autoencoder."""

    def decode(self, samples: Tensor) -> Tensor:
        """Latents [B, 16, T, H, W] to images [B, T, H, W, 3] in 0..1."""
        return (autoencoder.decode(samples).movedim(1, -1) + 1) / 2

    def decode_tiled(self, samples: Tensor, **_) -> Tensor:
        return self.decode(samples)

    def encode(self, pixels: Tensor) -> Tensor:
        """The frames [T, H, W, 3] in 0..1 of one clip to a latent [1, 16, T/4, H/2, W/2]."""
        return autoencoder.encode(pixels[..., :3].movedim(-1, 0).unsqueeze(0) * 2 - 1)

    def temporal_compression_decode(self) -> int:
        return autoencoder.TIME_FACTOR

    def spacial_compression_decode(self) -> int:
        return autoencoder.SPACE_FACTOR


def load_teacher(path: str) -> ModelPatcher:
    """The Shapes teacher as a MODEL of the host's Wan class."""
    model = model_from_state(comfy.utils.load_torch_file(path), configure)
    set_maker(model, load_teacher, path)
    return model


def expert_pairs() -> dict[int, Pair]:
    """The shipped experts by the number of steps that they are for."""
    return by_steps(weights.experts())


def load_pair(steps: int) -> dict[str, Expert]:
    """The shipped experts for so many steps, by kind. Raises FileNotFoundError where there are none."""
    pairs = expert_pairs()
    if steps not in pairs:
        raise FileNotFoundError(weights.missing(f"semantic_{steps}steps.safetensors"))
    return {kind: load_expert(path) for kind, path in pairs[steps].items()}


def configure(config: Any) -> None:
    """What the host cannot see in the weights of a Wan: the number of heads, the shift, and the latents."""
    config.unet_config["num_heads"] = network.ARCHITECTURE["num_attention_heads"]
    config.sampling_settings["shift"] = FAMILIES["shapes"].schedule.grid.shift
    config.latent_format = ShapesLatents()


def empty_latent(batch_size: int) -> dict[str, Tensor]:
    """A LATENT of zeros [B, 16, 4, 12, 12]: clips of the length and size this world is made for."""
    shape = (batch_size, *network.LATENT_SHAPE)
    return {"samples": torch.zeros(shape, device=comfy.model_management.intermediate_device())}
