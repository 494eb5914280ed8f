"""Whole backbones from one layout into another, tensor by tensor, mostly as bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ..backbone.file import BackboneFile
from ..errors import ExpertFileError, LayoutError
from ..expert.file import all_finite
from ..families.recipe import Recipe
from ..files.format import TensorInfo, tensor_bytes, tensor_size
from ..files.stream import stream_tensors
from .progress import Progress

DTYPES = {"fp32": ("F32", torch.float32), "bf16": ("BF16", torch.bfloat16), "fp16": ("F16", torch.float16)}
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_NAMES = {dtype: name for name, dtype in DTYPES.values()} | {
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def convert_backbone(
    backbone: BackboneFile,
    path: str | os.PathLike,
    to: Literal["comfy", "diffusers"],
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the backbone in another layout to one file. Of a released bundle this is the semantic expert.

    ``dtype`` (``fp32``, ``bf16``, ``fp16``) casts the weights; without it they keep every bit. ``metadata`` is added
    to what the source says. Raises ValueError for a backbone that cannot be converted, and OSError with the remedy.
    """
    metadata = backbone.metadata | dict(metadata or {})
    write_recipes(path, backbone, backbone.recipes(to), {}, metadata, dtype)


def write_recipes(
    path: str | os.PathLike,
    backbone: BackboneFile,
    recipes: Mapping[str, Recipe],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: str | None = None,
) -> None:
    """Write a file of what ``recipes`` make of the backbone, and ``tensors`` beside it."""
    source, layout = backbone.source, backbone.layout
    if dtype is not None and layout.scaled:
        raise LayoutError("quantised weights mean nothing without their scales: convert the bf16 file")
    # In the order of the source, since jumping about costs a hard disk most of its speed.
    ordered = sorted(recipes, key=lambda name: source.position(recipes[name].parts[0].name))
    made = {name: recipes[name].info(source.infos) for name in ordered}
    infos = {name: _cast_info(info, dtype) for name, info in made.items()}
    given = {name: TensorInfo(dtype_name(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    infos |= given
    progress = Progress(os.path.basename(path), sum(map(tensor_size, infos.values())))
    # diffusers refuses a file that does not say which framework wrote it.
    with stream_tensors(path, infos, dict(metadata) | {"format": "pt"}, progress=progress) as writer:
        for name, tensor in tensors.items():
            writer.put(name, tensor_bytes(tensor))
        for name in ordered:
            if dtype is None or infos[name] == made[name]:
                writer.put(name, *(source.rows(*part) for part in recipes[name].parts))
            else:
                writer.put(name, tensor_bytes(cast(name, backbone.build(recipes[name]), dtype)))
    progress.finish()


def cast(name: str, tensor: Tensor, dtype: str) -> Tensor:
    """The tensor in another precision. Raises ExpertFileError where finite numbers would become infinite."""
    result = tensor.to(DTYPES[dtype][1])
    if not all_finite(result):
        why = f"does not fit into {dtype}: use bf16 or fp32" if all_finite(tensor.float()) else "holds NaN or Inf"
        raise ExpertFileError(f"{name} {why}")
    return result


def _cast_info(info: TensorInfo, dtype: str | None) -> TensorInfo:
    if dtype is None or info.dtype not in _FLOATS:
        return info
    return TensorInfo(DTYPES[dtype][0], info.shape)


def dtype_name(tensor: Tensor) -> str:
    """What safetensors calls the tensor's dtype. Raises ExpertFileError for one that no network is stored in."""
    if tensor.dtype not in _NAMES:
        raise ExpertFileError(f"tensors of {tensor.dtype} cannot be written: take the bf16 or fp32 file")
    return _NAMES[tensor.dtype]
