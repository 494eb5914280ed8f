"""HunyuanVideo (diffusers' HunyuanVideoTransformer3DModel), text to video."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor, nn

from dcm_core.families import hunyuan_video

from ..data.batch import Conditions
from ..data.buckets import Size
from ..errors import ConfigError
from ..networks.network import Network, Patch
from .base import Backbone


class HunyuanVideoNetwork(Network):
    """A HunyuanVideo transformer. Its features are the tokens of the video after blocks of one stream."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [*self.transformer.transformer_blocks, *self.tapped]

    @property
    def tapped(self) -> Sequence[nn.Module]:
        return self.transformer.single_transformer_blocks

    @property
    def embedder(self) -> nn.Module:
        return self.transformer.time_text_embed

    @property
    def patch(self) -> Patch:
        config = self.transformer.config
        return config.patch_size_t, config.patch_size, config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.x_embedder.proj.weight.dtype

    def velocity(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """``conditions.text`` of the tokens that ``mask`` leaves, ``pooled``, and the ``guidance`` to be told."""
        if conditions.pooled is None or conditions.guidance is None:
            lacking = "a pooled text" if conditions.pooled is None else "an embedded guidance"
            raise ConfigError(f"HunyuanVideo is told {lacking}, and is given none: choose data prepared for it.")
        text, mask = _cut(conditions)
        # As the network knows it, in float32 like the timestep: 6000 for 6, where bfloat16 would make it 6016.
        guidance = 1000 * conditions.guidance.float()
        return self.transformer(x, timestep, text, mask, conditions.pooled, guidance, return_dict=False)[0]

    def head(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return self.transformer.proj_out(self.transformer.norm_out(tokens, embedding))


def _cut(conditions: Conditions) -> tuple[Tensor, Tensor]:
    """Texts [B, L, D] without what is padding in all of them, and which of the rest are tokens [B, L]."""
    text, mask = conditions.text, conditions.mask
    if mask is None:
        return text, text.new_ones(text.shape[:2], dtype=torch.bool)
    longest = int(mask.sum(dim=1).max())
    return text[:, :longest], mask[:, :longest]


class HunyuanVideoBackbone(Backbone):
    """Text to video."""

    transformer = HunyuanVideoTransformer3DModel
    network = HunyuanVideoNetwork
    keymap = hunyuan_video.KEYMAP
    channels = staticmethod(hunyuan_video.channels)
    usual = Size(129, 720, 1280)
    text_tokens = 256
    sizes = {"13b": {"num_attention_heads": 24, "num_layers": 20, "num_single_layers": 40}}


BACKBONE = HunyuanVideoBackbone
