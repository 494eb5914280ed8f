"""The Shapes world in the host's own terms: its backbone as a MODEL, its encoders as stand-ins for CLIP and VAE."""

import comfy.latent_formats
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.shapes import autoencoder, captions, network


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


def load_backbone(path: str) -> comfy.model_patcher.ModelPatcher:
    """The Shapes teacher as the host's Wan class, set up as the host's own loader does it."""
    management = comfy.model_management
    state = comfy.utils.load_torch_file(path)
    config = comfy.model_detection.model_config_from_unet(state, "")
    # The host would detect one head, taking the width of a Wan head for granted.
    config.unet_config["num_heads"] = network.ARCHITECTURE["num_attention_heads"]
    config.sampling_settings["shift"] = FAMILIES["shapes"].schedule.grid.shift
    config.latent_format = ShapesLatents()
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    dtypes = config.supported_inference_dtypes
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=dtypes,
        weight_dtype=comfy.utils.weight_dtype(state),
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, load_device, dtypes))
    model = config.get_model(state, "").to(offload_device)
    model.load_model_weights(state, "")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = (
        load_backbone,
        (path,),
    )  # as the loader of newer hosts: for more than one GPU
    return patcher


def empty_latent(batch_size: int) -> dict[str, Tensor]:
    """A LATENT of zeros [B, 16, 4, 12, 12]: clips of the length and size this world is made for."""
    shape = (batch_size, *network.LATENT_SHAPE)
    return {"samples": torch.zeros(shape, device=comfy.model_management.intermediate_device())}
