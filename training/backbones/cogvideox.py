"""CogVideoX 1.0 and 1.5 (diffusers' CogVideoXTransformer3DModel), text to video."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from dcm_core.families import cogvideox
from dcm_core.positions import rotary_angles

from ..data.batch import Conditions
from ..data.buckets import Size
from ..errors import ConfigError
from ..networks.network import Network, Patch
from .base import Backbone

_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}


class CogVideoXNetwork(Network):
    """A CogVideoX transformer.

    ``text_tokens``: the length of every text. It was trained without a mask, so that what its text encoder makes of
    the padding is a part of the text.
    """

    text_tokens = 226

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.transformer_blocks

    @property
    def embedder(self) -> nn.Module:
        return self.transformer.time_embedding

    @property
    def patch(self) -> Patch:
        config = self.transformer.config
        return config.patch_size_t or 1, config.patch_size, config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.patch_embed.proj.weight.dtype

    def velocity(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """``conditions.text`` of all ``text_tokens``; the number of latent frames has to be whole patches."""
        frames, length = x.shape[2], conditions.text.shape[1]
        if length != self.text_tokens:
            raise ConfigError(
                f"CogVideoX takes texts of {self.text_tokens} tokens, padding among them, and is given {length}: "
                "choose data that was prepared for it."
            )
        if frames % self.patch[0]:
            raise ConfigError(f"This CogVideoX takes latent frames in pairs, and is given {frames}.")
        rotary = self._rotary(self.grid(x), x.device)
        inside = x.transpose(1, 2)  # [B, T, C, H, W]
        made = self.transformer(inside, conditions.text, timestep, image_rotary_emb=rotary, return_dict=False)[0]
        return made.transpose(1, 2)

    def head(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        model = self.transformer
        return model.proj_out(model.norm_out(model.norm_final(tokens), temb=embedding))

    def _rotary(self, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Where tokens lie, as diffusers' pipeline says it; 2B has a table of its own."""
        config, (frames, height, width) = self.transformer.config, grid
        if not config.use_rotary_positional_embeddings:
            return None
        if config.patch_size_t is None:
            return rotary_angles(frames, height, width, config.attention_head_dim, device)
        largest = config.sample_height // config.patch_size, config.sample_width // config.patch_size
        cosine, sine = get_3d_rotary_pos_embed(
            config.attention_head_dim, None, (height, width), frames, grid_type="slice", max_size=largest, device=device
        )
        return cosine, sine


class CogVideoXBackbone(Backbone):
    """Text to video. 2B is of a family of its own, since it has other noise levels."""

    transformer = CogVideoXTransformer3DModel
    network = CogVideoXNetwork
    keymap = cogvideox.KEYMAP
    channels = staticmethod(cogvideox.channels)
    usual = Size(49, 480, 720)
    text_tokens = CogVideoXNetwork.text_tokens
    sizes = {
        "5b": _5B,
        "2b": {"num_attention_heads": 30, "num_layers": 30},
        # The largest height and width that tokens of 1.5 have places for.
        "1.5_5b": {**_5B, "patch_size_t": 2, "sample_height": 300, "sample_width": 300, "sample_frames": 81},
    }

    def _made(self) -> nn.Module:
        model = super()._made()
        shapes = self._shapes(model)
        own = next(each for each in cogvideox.FAMILIES if each.belongs(shapes))
        if own.name != self.family:
            raise ConfigError(
                f"backbone.family={self.family}: a network of this size is of the family {own.name}, which has other "
                f"noise levels. Set backbone.family={own.name}, or another backbone.size."
            )
        return model


BACKBONE = CogVideoXBackbone
