"""In the host's process: networks in every format that both hosts read, and what they must compute, in float64."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import comfy.sd
import torch
from comfy.ldm.flux import math as rotary
from dcm_pack.dcm_core.expert.layers import Expert, FusedLowRank, LowRank
from dcm_pack.dcm_core.expert.merge import weight_differences
from dcm_pack.nodes.backbone.model import as_released
from safetensors.torch import save_file
from torch import Tensor

from . import packed, tiny
from .random_weights import randomise
from .worlds import SHAPE, World, dcm_node, full_difference, world

KINDS = [*tiny.FAMILIES, "wan_i2v"]
PLAIN = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
EIGHT_BITS = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)}
# What a format's name says: how it is stored, and, where that is no dtype to compute in, that it computes in float32.
FORMATS = [*PLAIN, *EIGHT_BITS, *(f"scaled {name}" for name in EIGHT_BITS), "blocks of 8 bits"]


class ExactWorld(World):
    """One kind of network. Its images, if it takes any, and its guidance are told to all dtypes alike."""

    def text(self, seed: int = 0) -> list:
        [[text, options]] = super().text(seed)
        options = dict(options)
        if self.family == "hunyuan_video":
            options["guidance"] = 4.0  # in thousands, bfloat16 has room for it
        if getattr(self.network, "img_emb", None) is not None:
            generator = torch.Generator().manual_seed(7)
            options["concat_latent_image"] = torch.randn(SHAPE, generator=generator)
            options["concat_mask"] = torch.ones(1, 1, *SHAPE[2:])
            options["concat_mask"][:, :, 0] = 0
            seen = torch.randn(1, 257, 1280, generator=generator)
            options["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=seen)
        return [[text, options]]

    def stored(self, format: str, folder: Path) -> tuple[Callable, dict[str, Tensor]]:
        """(what loads a MODEL in this format, the weights in float32 that its own stand for)."""
        state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        if format in PLAIN:
            rounded = {key: each.to(PLAIN[format]).float() for key, each in state.items()}
            return lambda: self._plain(PLAIN[format]), rounded
        if format in EIGHT_BITS:
            stored = self.model(dtype=EIGHT_BITS[format]).model.diffusion_model.state_dict()
            return lambda: self.model(dtype=EIGHT_BITS[format]), {key: each.float() for key, each in stored.items()}
        linear = packed.linear_weights(self.network)
        if format == "blocks of 8 bits":
            unpacked = {key: packed.unpack(packed.pack(state[key]), torch.float32) for key in linear}
            return lambda: packed.loaded(self.network), state | unpacked
        scaled, meant = scaled_fp8(state, linear, EIGHT_BITS[format.removeprefix("scaled ")])
        save_file(scaled, folder / "scaled.safetensors")
        return lambda: dcm_node("DCMLoadBackbone").execute("scaled.safetensors", "default")[0], meant

    def _plain(self, dtype: torch.dtype):
        model = self.model(dtype=dtype)
        if dtype != torch.float32:
            model.set_model_compute_dtype(dtype)
        return model

    def in_float64(self, state: dict[str, Tensor], *runs: tuple[Expert, ...]) -> Tensor:
        """The latents of a semantic and a detail run, each over these weights with its experts in them."""
        with rotation_in_float64():
            return self.in_two_runs(*(self._network_in_float64(state, experts) for experts in runs))

    def _network_in_float64(self, state: dict[str, Tensor], experts: tuple[Expert, ...]):
        merged = {name: tensor.double() for name, tensor in state.items()}
        for expert in experts:
            for name, difference in weight_differences(expert, state).items():
                merged[name] = merged[name] + difference.double()
        model = comfy.sd.load_diffusion_model_state_dict(dict(state))
        model.model.diffusion_model.double().load_state_dict(merged)
        model.set_model_compute_dtype(torch.float64)
        return as_released(model, self.schedule.grid)


@cache
def exact_world(kind: str) -> ExactWorld:
    if kind == "wan_i2v":
        network = randomise(tiny.wan_i2v(), seed=0).requires_grad_(False)
        semantic = full_difference(network, "wan", seed=1)
        return ExactWorld("wan", network, semantic, tiny.random_expert(network, "wan", "detail", seed=2))
    return ExactWorld(**vars(with_fused_layers(world(kind))))


def with_fused_layers(this: World) -> World:
    """HunyuanVideo's published experts have a pair for each of q, k and v."""
    generator, layers = torch.Generator().manual_seed(4), dict(this.detail.layers)
    for name, layer in layers.items():
        if isinstance(layer, LowRank) and name.endswith(("qkv", "linear1")):
            out, width = layer.shapes["weight"]
            down, up = (torch.randn(shape, generator=generator) for shape in ((3 * 4, width), (3 * width, 4)))
            layers[name] = FusedLowRank(0.3 * down / width**0.5, up, 4.0, out)
    return replace(this, detail=replace(this.detail, layers=layers))


def scaled_fp8(
    state: dict[str, Tensor], linear: set[str], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(a file's tensors with a scale for each Linear weight, as older ones are written; what they stand for).

    Half of what the dtype has room for is left free: in 0.3.64 what LoRAs add would overflow.
    """
    stored, meant = {"scaled_fp8": torch.zeros(2, dtype=dtype)}, dict(state)
    for name, tensor in state.items():
        layer, _, key = name.rpartition(".")
        if name in linear:
            scale = tensor.abs().max() / (torch.finfo(dtype).max / 2)
            stored[name], stored[f"{layer}.scale_weight"] = (tensor / scale).to(dtype), scale
            meant[name] = stored[name].float() * scale
        else:  # 0.3.64 keeps the biases of these layers in 8 bits as well
            in_bits = key == "bias" and f"{layer}.weight" in linear
            stored[name] = meant[name] = tensor.to(dtype).float() if in_bits else tensor
    return stored, meant


@contextmanager
def rotation_in_float64():
    """Newer hosts rotate queries and keys by a library that knows no float64."""
    library = getattr(getattr(rotary.comfy, "quant_ops", None), "ck", None)
    if library is None:
        yield
        return
    own = library.apply_rope1, library.apply_rope

    def one(x: Tensor, angles: Tensor) -> Tensor:
        return rotary._apply_rope1(x, angles.double()) if x.dtype == torch.float64 else own[0](x, angles)

    def two(q: Tensor, k: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        return (one(q, angles), one(k, angles)) if q.dtype == torch.float64 else own[1](q, k, angles)

    with mock.patch.object(library, "apply_rope1", one), mock.patch.object(library, "apply_rope", two):
        yield
