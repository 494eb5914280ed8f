"""Tiny networks of diffusers' own classes, one per family and task, and bundles made of them as DCM's are."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dcm_core.backbone.file import BackboneFile
from dcm_core.families.presets import find_family
from dcm_core.files.format import TensorInfo

_WAN = {
    "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 16, "out_channels": 16, "text_dim": 12,
    "freq_dim": 8, "ffn_dim": 20, "num_layers": 3,
}  # fmt: skip
_HUNYUAN = {
    "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "num_single_layers": 3, "mlp_ratio": 3.0,
    "text_embed_dim": 12, "pooled_projection_dim": 10, "rope_axes_dim": (2, 2, 0),
}  # fmt: skip
_COGVIDEOX = {
    "num_attention_heads": 2, "attention_head_dim": 8, "time_embed_dim": 6, "text_embed_dim": 12, "num_layers": 3,
    "sample_width": 4, "sample_height": 4, "sample_frames": 5,
}  # fmt: skip

MODELS = {
    "wan t2v": ("WanTransformer3DModel", _WAN),
    "wan i2v": ("WanTransformer3DModel", _WAN | {"in_channels": 36, "image_dim": 14, "added_kv_proj_dim": 8}),
    "wan flf2v": ("WanTransformer3DModel", _WAN | {"in_channels": 36, "image_dim": 14, "added_kv_proj_dim": 8,
                                                   "pos_embed_seq_len": 6}),
    "wan 2.2 i2v": ("WanTransformer3DModel", _WAN | {"in_channels": 36}),
    "wan 2.2 5b": ("WanTransformer3DModel", _WAN | {"in_channels": 48, "out_channels": 48}),
    "hunyuan_video t2v": ("HunyuanVideoTransformer3DModel", _HUNYUAN),
    "hunyuan_video i2v": ("HunyuanVideoTransformer3DModel", _HUNYUAN | {
        "in_channels": 33, "guidance_embeds": False, "image_condition_type": "latent_concat"}),
    "hunyuan_video i2v by token": ("HunyuanVideoTransformer3DModel", _HUNYUAN | {
        "image_condition_type": "token_replace"}),
    "cogvideox t2v": ("CogVideoXTransformer3DModel", _COGVIDEOX),
    "cogvideox i2v": ("CogVideoXTransformer3DModel", _COGVIDEOX | {
        "in_channels": 32, "use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True}),
}  # fmt: skip
# What DCM's released detail experts have, by family: adapters on these projections, copies of these modules.
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
_TWINS = {
    "wan": ("condition_embedder", "proj_out"),
    "hunyuan_video": ("time_text_embed", "norm_out", "proj_out"),
}


def family_of(name: str) -> str:
    return name.split()[0]


def network(name: str, **changes) -> nn.Module:
    """The network called `name` in MODELS, with other arguments where asked; pytest skips without diffusers."""
    kind, config = MODELS[name]
    return getattr(pytest.importorskip("diffusers"), kind)(**config | changes)


def random_state(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A state dict with nothing zero, one or equal in it: norms, biases and tables too."""
    generator = torch.Generator().manual_seed(seed)
    state = network(name).state_dict()
    return {key: torch.randn(tensor.shape, generator=generator).to(dtype) for key, tensor in state.items()}


def comfy_state(name: str) -> dict[str, Tensor]:
    """The same under ComfyUI's names."""
    return find_family(family_of(name)).keymap.state_to_comfy(random_state(name))


def vace_state(blocks: int = 5) -> dict[str, Tensor]:
    """A whole Wan VACE under ComfyUI's names."""
    state = comfy_state("wan t2v")
    block = {key.removeprefix("blocks.0."): tensor for key, tensor in state.items() if key.startswith("blocks.0.")}
    width = len(block["norm3.bias"])
    own = {"vace_patch_embedding": (width, 96, 1, 2, 2), "vace_blocks.0.before_proj": (width, width)}
    for number in range(blocks):
        state |= {f"vace_blocks.{number}.{key}": tensor.clone() for key, tensor in block.items()}
        own[f"vace_blocks.{number}.after_proj"] = (width, width)
    for layer, shape in own.items():
        state |= {f"{layer}.weight": torch.randn(shape), f"{layer}.bias": torch.randn(width)}
    return state


def infos(state: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """What the header of a file with these tensors says."""
    names = {
        torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float8_e4m3fn: "F8_E4M3",
        torch.uint8: "U8",
    }  # fmt: skip
    return {key: TensorInfo(names[tensor.dtype], tuple(tensor.shape)) for key, tensor in state.items()}


def opened(state: Mapping[str, Tensor]) -> BackboneFile:
    """A backbone file with these tensors, without the file."""
    return BackboneFile(SimpleNamespace(infos=infos(state), metadata={}, headers=[], paths=[], read=state.__getitem__))


def with_header(infos: Mapping[str, TensorInfo]) -> BackboneFile:
    """A backbone file of which no tensor can be read."""
    return BackboneFile(SimpleNamespace(infos=infos, metadata={}, headers=[]))


def released(name: str, rank: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A bundle: what PEFT makes of the network's names, and the copies, all with random weights."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    bundle = {}
    for key, tensor in random_state(name, dtype=dtype).items():
        module, _, kind = key.rpartition(".")
        adapted = module.endswith(tuple(f".{part}" for part in _ADAPTED))
        bundle[f"{module}.base_layer.{kind}" if adapted else key] = tensor
        if adapted and kind == "weight":
            bundle[f"{module}.lora_A.lora1.weight"] = normal(rank, tensor.shape[1])
            bundle[f"{module}.lora_B.lora1.weight"] = normal(tensor.shape[0], rank)
        root, _, rest = key.partition(".")
        if root in _TWINS[family_of(name)]:
            bundle[f"{root}_lora.{rest}"] = normal(*tensor.shape)
    return bundle


def detail_state(bundle: Mapping[str, Tensor], scale: float = 2.0) -> dict[str, Tensor]:
    """The detail expert as a plain network in diffusers' names: W + 2 B A, and the copies in place of the originals."""
    state = {}
    for key, tensor in bundle.items():
        root, _, rest = key.partition(".")
        if ".lora_" in key or root.endswith("_lora"):
            continue
        if key.endswith(".base_layer.weight"):
            module = key.removesuffix(".base_layer.weight")
            down, up = (bundle[f"{module}.lora_{part}.lora1.weight"].float() for part in "AB")
            tensor = tensor.float() + scale * up @ down
        state[key.replace(".base_layer.", ".")] = bundle.get(f"{root}_lora.{rest}", tensor).float()
    return state
