"""What a CogVideoX MODEL needs to run in ComfyUI as its releases run: object patches, as the stock shift nodes make.

ComfyUI has the network since 0.20. Its sampling class hands it latents that were not scaled to unit variance (so that
only the stock VOID sampler, which does so itself, can sample it), it has one table of noise levels for all sizes, and
it places the tokens of the 1.0 models wrongly. With these patches every stock sampler makes what diffusers makes.
"""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.expert.fingerprint import logical_shapes
from ...dcm_core.families.cogvideox import is_2b
from ...dcm_core.positions import rotary_angles, sine_table
from ...dcm_core.schedule.curves import ZeroTerminalSNR
from ...dcm_core.schedule.grid import NoiseGrid
from .host import PREFIX, network_of


class GridSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """The noise levels of a v-prediction grid, for x * sqrt(1 + sigma^2): with them the host's euler is DDIM."""

    def __init__(self, grid: NoiseGrid):
        super().__init__()
        self.set_sigmas(torch.tensor(ZeroTerminalSNR(grid.shift).table, dtype=torch.float64))


class RotaryPositions:
    """In the place of the network's ``_get_rotary_emb``."""

    def __init__(self, head_dim: int):
        self.head_dim = head_dim

    def __call__(self, h: int, w: int, t: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return rotary_angles(t, h, w, self.head_dim, device)


class SinePositions:
    """In the place of the ``forward`` of 2B's patch embedding, which the host takes for one without positions."""

    def __init__(self, patch_embed: Any):
        self.patch_embed = patch_embed

    def __call__(self, text: Tensor, latents: Tensor) -> Tensor:
        """text [B, L, D] and latents [B, T, C, H, W] to tokens [B, L + T * H/2 * W/2, width]."""
        embed = self.patch_embed
        tokens = type(embed).forward(embed, text, latents)
        frames, _, height, width = latents.shape[1:]
        sizes = frames, height // embed.patch_size, width // embed.patch_size
        tokens[:, text.shape[1] :] += sine_table(*sizes, embed.dim, tokens.device).to(tokens.dtype)
        return tokens


def run_as_released(model: ModelPatcher, grid: NoiseGrid) -> ModelPatcher:
    """A clone of the MODEL with the sampling class and the positions of the released models of this grid."""
    model = model.clone()
    model.add_object_patch("model_sampling", GridSampling(grid))
    for name, value in positions(network_of(model)).items():
        model.add_object_patch(PREFIX + name, value)
    return model


def positions(network: Any) -> dict[str, object]:
    """The attributes of the host's network that place its tokens, where the host sets them otherwise."""
    if network.patch_size_t is not None:  # 1.5: as released
        return {}
    if is_2b(logical_shapes(network)):
        if network.patch_embed.use_learned_positional_embeddings:  # the file brings its table
            return {}
        return {
            "use_rotary_positional_embeddings": False,
            "patch_embed.forward": SinePositions(network.patch_embed),
        }
    # Image-to-video has learned positions as well, and the host would leave these out.
    return {
        "use_rotary_positional_embeddings": True,
        "_get_rotary_emb": RotaryPositions(network.attention_head_dim),
    }
