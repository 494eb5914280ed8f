"""Wan 2.1 (diffusers' WanTransformer3DModel)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from dcm_core.expert.layers import Expert, Layer
from dcm_core.families import wan
from dcm_core.families.presets import find_family

from ..config import BackboneConfig
from ..data.batch import Conditions
from ..errors import ConfigError
from ..networks import exchange
from ..networks.adapter import adapter_layers, add_adapter
from ..networks.context import Context
from ..networks.features import Features, recorded
from ..networks.network import Network

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


class WanNetwork(Network):
    """A Wan transformer."""

    context: Context | None = None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.blocks

    def forward(
        self, x: Tensor, timestep: Tensor, conditions: Conditions, stride: int = 0
    ) -> tuple[Tensor, Features | None]:
        model = self.transformer
        frames, height, width = x.shape[2:]
        p_t, p_h, p_w = model.config.patch_size
        grid = (frames // p_t, height // p_h, width // p_w)
        if self.context is not None:
            self.context.check(x, prod(grid))
        arguments: dict[str, Any] = {"encoder_hidden_states": conditions.text, "return_dict": False}
        if not stride:
            return model(x, timestep, **arguments)[0], None
        with recorded([model.condition_embedder]) as embeddings, recorded(self.blocks[::stride]) as tokens:
            velocity = model(x, timestep, **arguments)[0]
        time_embedding = embeddings[0][0]
        velocities = [_head(model, each, time_embedding, grid) for each in tokens]
        if self.context is not None:
            tokens = [self.context.gathered(each) for each in tokens]
        return velocity, Features(tokens, velocities, grid)

    def share_context(self, mesh: DeviceMesh) -> None:
        """Let the processes of ``mesh`` share the tokens of each clip. Raises ConfigError where they cannot."""
        self.context = Context(self.transformer, mesh)


class WanBackbone:
    """Builds Wan networks, adapts them, and reads and writes their weights."""

    architecture: Mapping[str, Any] = ARCHITECTURE

    def __init__(self, config: BackboneConfig):
        self.config, self.family, self.keymap = config, config.family, find_family(config.family).keymap
        if self.keymap is not wan.KEYMAP:
            title = find_family(config.family).title
            raise ConfigError(f"backbone.family: {title} has another network than backbone.name={config.name}.")

    def build(self, seed: int) -> Network:
        """A network with random weights that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return WanNetwork(WanTransformer3DModel(**{**self.architecture, **self.config.architecture}))

    def load(self, path: str | Path) -> Network:
        """A network with the weights of a backbone file of any layout. Raises ConfigError where they do not fit."""
        network = self.build(seed=0)
        exchange.load_weights(network.transformer, path, self.keymap)
        return network

    @staticmethod
    def feature_shape(network: Network, stride: int) -> tuple[int, int]:
        """(channels of a token, number of layers of features that the network gives at this stride)."""
        return network.transformer.proj_out.in_features, len(network.blocks[::stride])

    def add_adapter(self, network: Network, rank: int, alpha: float, seed: int) -> None:
        """Freeze the network but for low-rank adapters and the layers a detail expert replaces; its output stays."""
        add_adapter(network.transformer, *self._detail_layers(network), rank, alpha, seed)

    def adapter_layers(self, network: Network, start: Mapping[str, Tensor]) -> dict[str, Layer]:
        """What ``add_adapter`` made trainable, by ComfyUI module name; replaced layers as difference to ``start``."""
        layers = adapter_layers(network.transformer, start)
        return {self.keymap.module_to_comfy(name): layer for name, layer in layers.items()}

    def apply(self, network: Network, expert: Expert) -> None:
        """Add an expert to the weights of a network without adapters. Raises ConfigError where it does not fit."""
        exchange.apply_expert(network.transformer, expert, self.keymap)

    def comfy_state(self, network: Network) -> dict[str, Tensor]:
        """The weights of a network without adapters, under ComfyUI's names."""
        return exchange.comfy_state(network.transformer, self.keymap)

    def _detail_layers(self, network: Network) -> tuple[list[str], list[str]]:
        low_rank, replaced = self.keymap.detail_layers(self.comfy_state(network))
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
