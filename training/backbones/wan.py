"""Wan 2.1 and 2.2 (diffusers' WanTransformer3DModel). Of a pair, each model is a network of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import pad

from dcm_core.families import wan

from ..data.batch import Conditions
from ..data.buckets import Size
from ..errors import ConfigError
from ..networks.context import Context
from ..networks.network import Network, Patch
from .base import Backbone

_14B = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
_IMAGE = {"in_channels": 36}


class WanNetwork(Network):
    """A Wan transformer.

    ``text_tokens``: the length of every text it was trained with, what follows the caption being zeros. 0 takes texts
    as long as they come.
    """

    values = "p q r c"
    text_tokens = 512

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.blocks

    @property
    def embedder(self) -> nn.Module:
        return self.transformer.condition_embedder

    @property
    def patch(self) -> Patch:
        return self.transformer.config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.patch_embedding.weight.dtype

    def velocity(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """``conditions.image``: a mask and an image's latents; ``vision``: what CLIP sees in it, where 2.1 takes it."""
        model, vision = self.transformer, conditions.vision
        if (vision is None) != (model.config.image_dim is None):
            wants, has = ("an", "none") if vision is None else ("no", "one")
            raise ConfigError(
                f"This backbone takes {wants} embedded image, and is given {has}: choose data prepared for it."
            )
        text = self._padded(conditions)
        return model(x, timestep, text, encoder_hidden_states_image=vision, return_dict=False)[0]

    def head(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        model = self.transformer
        shift, scale = (model.scale_shift_table + embedding.unsqueeze(1)).chunk(2, dim=1)
        return model.proj_out((model.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))

    def share_context(self, mesh: DeviceMesh) -> None:
        plan = {name: part for name, part in self.transformer._cp_plan.items() if name}  # timesteps are one a clip
        self.context = Context(self.transformer, mesh, plan)

    def _padded(self, conditions: Conditions) -> Tensor:
        text, mask = conditions.text, conditions.mask
        if mask is not None:
            text = text.masked_fill(~mask.unsqueeze(-1), 0)
        if not self.text_tokens:
            return text
        if text.shape[1] > self.text_tokens:
            raise ConfigError(f"Wan takes texts of up to {self.text_tokens} tokens, and is given {text.shape[1]}.")
        return pad(text, (0, 0, 0, self.text_tokens - text.shape[1]))


class WanBackbone(Backbone):
    """Text and image to video."""

    transformer = WanTransformer3DModel
    network = WanNetwork
    keymap = wan.KEYMAP
    channels = staticmethod(wan.channels)
    takes_image = True
    usual = Size(81, 480, 832)
    text_tokens = WanNetwork.text_tokens
    sizes = {
        "1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        "14b": _14B,
        "14b_i2v": {**_14B, **_IMAGE, "image_dim": 1280, "added_kv_proj_dim": 5120},
        # Wan 2.2: both models of a pair are of this size, the 5B has latents of its own.
        "a14b": _14B,
        "a14b_i2v": {**_14B, **_IMAGE},
        "5b": {
            "num_attention_heads": 24,
            "ffn_dim": 14336,
            "num_layers": 30,
            "in_channels": 48,
            "out_channels": 48,
        },
    }


BACKBONE = WanBackbone
