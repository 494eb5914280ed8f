"""HunyuanVideo (diffusers' HunyuanVideoTransformer3DModel), text to video."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import HunyuanVideoTransformer3DModel
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import pad

from dcm_core.families import hunyuan_video

from ..data.batch import Conditions
from ..data.buckets import Size
from ..errors import ConfigError
from ..networks.context import Context
from ..networks.network import Network, Patch
from .base import Backbone

_TOKENS = ContextParallelInput(split_dim=1, expected_dims=3)
_PLACES = ContextParallelInput(split_dim=0, expected_dims=2, split_output=True)  # cosines and sines, of the video alone
_SHARED = {
    "rope": {0: _PLACES, 1: _PLACES},
    "transformer_blocks.0": {"hidden_states": _TOKENS, "encoder_hidden_states": _TOKENS},
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}


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
        text, mask = _cut(conditions, 1 if self.context is None else self.context.size)
        # As the network knows it, in float32 like the timestep: 6000 for 6, where bfloat16 would make it 6016.
        guidance = 1000 * conditions.guidance.float()
        return self.transformer(x, timestep, text, mask, conditions.pooled, guidance, return_dict=False)[0]

    def head(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return self.transformer.proj_out(self.transformer.norm_out(tokens, embedding))

    def share_context(self, mesh: DeviceMesh) -> None:
        """Text is shared like the video: a process has a part of both."""
        self.context = Context(self.transformer, mesh, _SHARED)
        for block in self.blocks:
            attention: Any = block.attn
            attention.register_forward_pre_hook(partial(_with_its_mask, self.context.size), with_kwargs=True)


def _with_its_mask(parts: int, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of an attention that sees the video's and the text's tokens process by process.

    The transformer's mask [B, 1, 1, N] is of the whole video and then of the whole text: where padding is more than one
    process's part of the text, it would hide the last tokens of the video instead.
    """
    mask, text = kwargs["attention_mask"], parts * kwargs["encoder_hidden_states"].shape[1]
    of_video, of_text = (each.chunk(parts, -1) for each in mask.split([mask.shape[-1] - text, text], -1))
    pairs = [torch.cat(pair, -1) for pair in zip(of_video, of_text, strict=True)]
    return args, {**kwargs, "attention_mask": torch.cat(pairs, -1)}


def _cut(conditions: Conditions, parts: int) -> tuple[Tensor, Tensor]:
    """Texts [B, L, D] without what is padding in all of them, and which of the rest are tokens [B, L].

    They keep or get as much padding as makes L a multiple of ``parts``.
    """
    text, mask = conditions.text, conditions.mask
    longest = text.shape[1] if mask is None else int(mask.sum(dim=1).max())
    if mask is None:
        mask = text.new_ones(text.shape[:2], dtype=torch.bool)
    length = -(-longest // parts) * parts
    lacking = max(0, length - text.shape[1])
    return pad(text, (0, 0, 0, lacking))[:, :length], pad(mask, (0, lacking))[:, :length]


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
