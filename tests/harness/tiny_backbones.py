"""Tiny backbones of the trainer, what each is told, and a data set of noise for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import CogVideoXPipeline
from torch import Tensor

from training.backbones.base import Backbone
from training.config import BackboneConfig
from training.data.batch import Batch, Conditions
from training.networks.network import Network
from training.registry import build_backbone

from .random_weights import randomise

TOKENS, PADDED = 5, 9
_WIDE = {"num_attention_heads": 2, "attention_head_dim": 12}
_WAN = _WIDE | {"text_dim": 14, "freq_dim": 8, "ffn_dim": 20, "num_layers": 3}
_HUNYUAN = _WIDE | {
    "num_layers": 1, "num_single_layers": 3, "mlp_ratio": 3.0, "text_embed_dim": 14, "pooled_projection_dim": 10,
    "rope_axes_dim": (4, 4, 4),
}  # fmt: skip
_COGVIDEOX = {"num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 6, "text_embed_dim": 14,
              "num_layers": 3}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """An adapter, the arguments that make its network tiny, latents [C, T, H, W], and what else it is told."""

    name: str
    architecture: dict[str, Any]
    by_hand: Callable[..., Tensor]
    family: str = ""
    shape: tuple[int, int, int, int] = (16, 3, 4, 6)
    told: tuple[str, ...] = ()
    tokens: int = TOKENS  # without padding
    padded: int = PADDED

    def backbone(self, **settings: Any) -> Backbone:
        return build_backbone(self.config(**settings))

    def config(self, **settings: Any) -> BackboneConfig:
        values = {"name": self.name, "family": self.family, "architecture": self.architecture}
        return BackboneConfig(**values | settings)

    def network(self, seed: int = 0) -> Network:
        """With weights of which every layer has a say in the output."""
        return randomise(self.backbone().build(0), seed).eval()

    def noise(self, count: int = 2, seed: int = 1) -> Tensor:
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(seed))

    def conditions(self, count: int = 2, seed: int = 2) -> Conditions:
        """Texts whose padding is no zeros, so that whoever lets it through is found out; the last one is longer."""
        generator = torch.Generator().manual_seed(seed)
        lengths = self.tokens + (torch.arange(count) == count - 1).long()
        mask = torch.arange(self.padded) < lengths[:, None]
        width = self.architecture.get("text_dim") or self.architecture["text_embed_dim"]
        frames, height, width_ = self.shape[1:]
        every = {
            "mask": mask,
            "pooled": torch.randn(count, 10, generator=generator),
            "guidance": torch.full((count,), 6.1),
            "image": torch.randn(count, 20, frames, height, width_, generator=generator),
            "vision": torch.randn(count, 257, 1280, generator=generator),
        }
        text = torch.randn(count, self.padded, width, generator=generator)
        return Conditions(text, **{name: every[name] for name in self.told})


def wan(model: Any, x: Tensor, timestep: Tensor, told: Conditions) -> Tensor:
    """As diffusers' pipelines call it: texts end in zeros, 512 tokens long."""
    text = torch.zeros(len(x), 512, told.text.shape[2])
    for row, (each, there) in enumerate(zip(told.text, told.mask, strict=True)):
        text[row, : there.sum()] = each[there]
    given = x if told.image is None else torch.cat([x, told.image], dim=1)
    return model(
        hidden_states=given,
        timestep=timestep,
        encoder_hidden_states=text,
        encoder_hidden_states_image=told.vision,
        return_dict=False,
    )[0]


def hunyuan_video(model: Any, x: Tensor, timestep: Tensor, told: Conditions) -> Tensor:
    """As diffusers' pipeline calls it, with the guidance in float32."""
    return model(
        hidden_states=x,
        timestep=timestep,
        encoder_hidden_states=told.text,
        encoder_attention_mask=told.mask.long(),
        pooled_projections=told.pooled,
        guidance=torch.tensor([6.1] * len(x)) * 1000.0,
        return_dict=False,
    )[0]


def cogvideox(model: Any, x: Tensor, timestep: Tensor, told: Conditions) -> Tensor:
    """As diffusers' pipeline calls it, with the positions that it prepares."""
    latents = x.transpose(1, 2)
    rotary = None
    if model.config.use_rotary_positional_embeddings:
        pipeline = SimpleNamespace(transformer=model, vae_scale_factor_spatial=8)
        pixels = 8 * x.shape[3], 8 * x.shape[4]
        rotary = CogVideoXPipeline._prepare_rotary_positional_embeddings(pipeline, *pixels, x.shape[2], x.device)
    return model(
        hidden_states=latents,
        encoder_hidden_states=told.text,
        timestep=timestep,
        image_rotary_emb=rotary,
        return_dict=False,
    )[0].transpose(1, 2)


_COG = Tiny("cogvideox", _COGVIDEOX | {"use_rotary_positional_embeddings": True}, cogvideox, tokens=226, padded=226)
BACKBONES = {
    "wan t2v": Tiny("wan", _WAN, wan, told=("mask",)),
    "wan i2v": Tiny(
        "wan",
        _WAN | {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 24},
        wan,
        told=("mask", "image", "vision"),
    ),
    "wan 2.2 i2v": Tiny("wan", _WAN | {"in_channels": 36}, wan, told=("mask", "image")),
    "wan 2.2 5b": Tiny(
        "wan", _WAN | {"in_channels": 48, "out_channels": 48}, wan, shape=(48, 3, 4, 6), told=("mask",)
    ),
    "hunyuan_video": Tiny("hunyuan_video", _HUNYUAN, hunyuan_video, told=("mask", "pooled", "guidance")),
    "cogvideox 5b": _COG,
    "cogvideox 1.5": replace(
        _COG, architecture=_COG.architecture | {"patch_size_t": 2, "sample_height": 300, "sample_width": 300},
        shape=(16, 4, 4, 6),
    ),
    "cogvideox 2b": Tiny(
        "cogvideox",
        {**_COGVIDEOX, "num_attention_heads": 30, "attention_head_dim": 8, "num_layers": 2,
         "use_rotary_positional_embeddings": False},
        cogvideox, family="cogvideox_2b", tokens=226, padded=226,
    ),
}  # fmt: skip


class Noise:
    """A data set whose clips are noise and whose captions, whatever they are, are one text."""

    batch_size = 2
    made_for = None
    content = ""
    prompts = ()

    def __init__(self, tiny: Tiny):
        self.tiny, self.latent_shape = tiny, tiny.shape
        self.told_of_image = frozenset({"image", "vision"} & {*tiny.told})

    def batch(self, draws: Any) -> Batch:
        return Batch(draws.noise("clips", self.tiny.noise(len(draws.rows))), self.conditions([""] * len(draws.rows)))

    def conditions(self, captions: list[str], dropped: Collection[int] = ()) -> Conditions:
        return replace(self.tiny.conditions(len(captions)), guidance=None)

    def frames_of(self, captions: Sequence[str]) -> str:
        return ""

    def unconditional(self, conditions: Conditions) -> Conditions:
        return replace(conditions, text=self.tiny.conditions(len(conditions), seed=3).text)

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3]

    def verdict(self, sample: Any) -> str:
        return ""
