"""Whole backbones from one layout into another, tensor by tensor, mostly as bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..check import Report, check
from ..expert import Expert, ExpertFileError
from ..expert_file import all_finite
from ..fingerprint import norm_tensors
from ..keymaps import KEYMAPS, Recipe, keymap
from ..layouts import Layout, LayoutError, backbone_recipes, recognise
from ..safetensors_format import TensorInfo, tensor_bytes, tensor_size
from ..safetensors_stream import TensorSource, stream_tensors
from ..weight_files import open_weights
from .progress import Progress

DTYPES = {"fp32": ("F32", torch.float32), "bf16": ("BF16", torch.bfloat16), "fp16": ("F16", torch.float16)}
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Backbone:
    """A backbone file (or set of files) of any layout. Use as a context manager to read its tensors."""

    source: TensorSource
    layout: Layout

    @classmethod
    def open(cls, path: str | os.PathLike) -> Backbone:
        """Raises ValueError for what is no backbone or no whole file, and OSError as the system gives it."""
        source = open_weights(path)
        try:
            return cls(source, recognise(source.infos))
        except LayoutError as error:
            raise LayoutError(f"{path}: {error}") from error

    def __enter__(self) -> Backbone:
        self.source.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.source.__exit__(*error)

    def recipes(self, to: Literal["comfy", "diffusers"]) -> dict[str, Recipe]:
        """Every tensor of the backbone in another layout. Raises LayoutError."""
        return backbone_recipes(self.layout, self.source.infos, to)

    def build(self, recipe: Recipe) -> Tensor:
        """The tensor, in memory of its own."""
        return recipe.build(self.source.read)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by ComfyUI's names."""
        return {name: recipe.info(self.source.infos).shape for name, recipe in self.recipes("comfy").items()}

    def norms(self) -> dict[str, Tensor]:
        """The tensors that tell this backbone from others of its kind, by ComfyUI's names."""
        shapes, recipes = self.shapes(), self.recipes("comfy")
        chosen = norm_tensors({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        return {name: self.build(recipes[name]) for name in chosen}

    def check_fit(self, expert: Expert) -> Report:
        """What ``check`` finds. Raises ExpertFileError for an expert that is for another backbone."""
        family = expert.metadata.family
        # Families that share a class of networks share its key map.
        same = family in KEYMAPS and keymap(family) is self.layout.keymap
        report = check(expert, self.shapes(), self.norms(), family if same else self.layout.family)
        report.raise_if_wrong()
        return report


def convert_backbone(
    backbone: Backbone,
    path: str | os.PathLike,
    to: Literal["comfy", "diffusers"],
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the backbone in another layout to one file. Of a released bundle this is the semantic expert.

    ``dtype`` (``fp32``, ``bf16``, ``fp16``) casts the weights; without it they keep every bit. ``metadata`` is added
    to what the source says. Raises ValueError for a backbone that cannot be converted, and OSError with the remedy.
    """
    metadata = backbone.source.metadata | dict(metadata or {})
    write_recipes(path, backbone, backbone.recipes(to), {}, metadata, dtype)


def write_recipes(
    path: str | os.PathLike,
    backbone: Backbone,
    recipes: Mapping[str, Recipe],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: str | None = None,
) -> None:
    """Write a file of what ``recipes`` make of the backbone, and ``tensors`` beside it."""
    source, layout = backbone.source, backbone.layout
    if dtype is not None and layout.scaled:
        raise LayoutError("scaled one-byte weights mean nothing without their scales: convert the bf16 file")
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
            if infos[name] == made[name]:
                writer.put(name, *(source.rows(*part) for part in recipes[name].parts))
            else:
                writer.put(name, tensor_bytes(cast(name, backbone.build(recipes[name]), dtype)))
    progress.finish()


def cast(name: str, tensor: Tensor, dtype: str) -> Tensor:
    """The tensor in another precision. Raises ExpertFileError where finite numbers would become infinite."""
    result = tensor.to(DTYPES[dtype][1])
    if not all_finite(result):
        why = (
            f"does not fit into {dtype}: use bf16 or fp32"
            if all_finite(tensor.float())
            else "holds NaN or Inf"
        )
        raise ExpertFileError(f"{name} {why}")
    return result


def _cast_info(info: TensorInfo, dtype: str | None) -> TensorInfo:
    if dtype is None or info.dtype not in _FLOATS:
        return info
    return TensorInfo(DTYPES[dtype][0], info.shape)


def dtype_name(tensor: Tensor) -> str:
    """What safetensors calls the tensor's dtype: F32, BF16 or F16."""
    return next(name for name, dtype in DTYPES.values() if dtype == tensor.dtype)
