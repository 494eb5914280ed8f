"""Wan 2.1 (diffusers' WanTransformer3DModel)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange
from torch import Tensor, nn

from dcm_core.expert.layers import Expert, Layer
from dcm_core.families import wan
from dcm_core.families.presets import find_family

from ..config import BackboneConfig
from ..errors import ConfigError
from . import exchange
from .adapter import adapter_layers, add_adapter
from .features import Features, recorded

ARCHITECTURE = {
    "patch_size": (1, 2, 2),
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    # the size of the 1.3B
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "ffn_dim": 8960,
    "num_layers": 30,
}


class WanBackbone:
    """Builds the network and calls it in the trainer's terms: sigma in 0..1 in, velocity out."""

    architecture: Mapping[str, Any] = ARCHITECTURE

    def __init__(self, config: BackboneConfig):
        self.config, self.family, self.keymap = config, config.family, find_family(config.family).keymap
        if self.keymap is not wan.KEYMAP:
            title = find_family(config.family).title
            raise ConfigError(f"backbone.family: {title} has another network than backbone.name={config.name}.")

    def build(self, seed: int) -> nn.Module:
        """A network with random weights that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return WanTransformer3DModel(**{**self.architecture, **self.config.architecture})

    def load(self, path: str | Path) -> nn.Module:
        """A network with the weights of a backbone file of any layout. Raises ConfigError where they do not fit."""
        model = self.build(seed=0)
        exchange.load_weights(model, path, self.keymap)
        return model

    @staticmethod
    def velocity(model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Velocity [B, C, T, H, W] at x [B, C, T, H, W], sigma [B] in 0..1, text [B, L, D]. Timestep = 1000 sigma."""
        return model(x, 1000.0 * sigma, encoder_hidden_states=text, return_dict=False)[0]

    def features(self, model: Any, x: Tensor, sigma: Tensor, text: Tensor, stride: int) -> Features:
        """The tokens after blocks 0, stride, 2 stride, ..., raw and seen through the network's output head."""
        with recorded([model.condition_embedder]) as embeddings, recorded(model.blocks[::stride]) as tokens:
            # forward, not the call: a compiled network ignores hooks
            model.forward(x, 1000.0 * sigma, encoder_hidden_states=text, return_dict=False)
        time_embedding = embeddings[0][0]
        frames, height, width = x.shape[2:]
        p_t, p_h, p_w = model.config.patch_size
        grid = (frames // p_t, height // p_h, width // p_w)
        return Features(tokens, [_head(model, each, time_embedding, grid) for each in tokens], grid)

    @staticmethod
    def feature_shape(model: Any, stride: int) -> tuple[int, int]:
        """(channels of a token, number of layers that ``features`` gives at this stride)."""
        return model.proj_out.in_features, len(model.blocks[::stride])

    def add_adapter(self, model: nn.Module, rank: int, alpha: float, seed: int) -> None:
        """Freeze model but for low-rank adapters and the layers a detail expert replaces; its output stays the same."""
        add_adapter(model, *self._detail_layers(model), rank, alpha, seed)

    def adapter_layers(self, model: nn.Module, start: Mapping[str, Tensor]) -> dict[str, Layer]:
        """What ``add_adapter`` made trainable, by ComfyUI module name; replaced layers as difference to ``start``."""
        layers = adapter_layers(model, start)
        return {self.keymap.module_to_comfy(name): layer for name, layer in layers.items()}

    def apply(self, model: nn.Module, expert: Expert) -> None:
        """Add an expert to the weights of a network without adapters. Raises ConfigError where it does not fit."""
        exchange.apply_expert(model, expert, self.keymap)

    def comfy_state(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of a network without adapters, under ComfyUI's names."""
        return exchange.comfy_state(model, self.keymap)

    def _detail_layers(self, model: nn.Module) -> tuple[list[str], list[str]]:
        low_rank, replaced = self.keymap.detail_layers(self.comfy_state(model))
        return [self.keymap.module_to_diffusers(n) for n in low_rank], [
            self.keymap.module_to_diffusers(n) for n in replaced
        ]


def _head(model: Any, tokens: Tensor, time_embedding: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Tokens [B, N, C] of any layer through the output head to a velocity [B, C, T, H, W]."""
    shift, scale = (model.scale_shift_table + time_embedding.unsqueeze(1)).chunk(2, dim=1)
    patches = model.proj_out((model.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
    (t, h, w), (p, q, r) = grid, model.config.patch_size
    return rearrange(patches, "b (t h w) (p q r c) -> b c (t p) (h q) (w r)", t=t, h=h, w=w, p=p, q=q, r=r)


BACKBONE = WanBackbone
