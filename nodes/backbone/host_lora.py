"""What ComfyUI makes of LoRA files: a part of what ``host.py`` gathers, to be reread with it.

* ``comfy.lora.model_lora_keys_unet`` gives every spelling of a network's layers, ``comfy.lora_convert`` renames the
  keys of some trainers, and ``comfy.lora.load_lora`` makes patches of tensors: a ``WeightAdapterBase``,
  ``("diff", (tensor,))`` or ``("set", (tensor,))``. It asks a dict for what it knows, and passes over the rest.
* ``comfy.lora.calculate_weight`` puts patches into a weight, in place where that can be. What does not fit is logged
  and left out, so ``fits`` has to be asked before.
* What an adapter holds: ``weights``, in an order of its own for each kind.
* Newer versions make ``("config", (tensor,))`` of a key that says how a layer is to be run, with which attention for
  one. ``add_patches`` puts another module in that layer's place, at any strength but 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.weight_adapter
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .host import WeightPatches

Rows = tuple[int, int, int]  # a part of a weight: dimension, first row, number of rows

_ADAPTER = comfy.weight_adapter.WeightAdapterBase
# The kinds whose ``weights`` are known here: the place of the DoRA scale in them.
_DORA = {"lora": 4, "loha": 7, "lokr": 8}
_RESHAPE = 5  # of a "lora": the size that a weight is padded to


class _Taken(dict[str, Tensor]):
    """A file's tensors, and which of them were asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__(tensors)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default


def patches_of(model: ModelPatcher, tensors: Mapping[str, Tensor]) -> tuple[WeightPatches, list[str]]:
    """(patches for ``add_patches``, the keys that are no part of one) of a LoRA file for this MODEL.

    A key that another spelling of the same layer rules out is no part of a patch.
    """
    taken = _Taken(comfy.lora_convert.convert_lora(dict(tensors)))
    patches = comfy.lora.load_lora(taken, comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)
    held = {id(tensor) for patch in patches.values() for tensor in tensors_of(patch)}
    read = {name for name in taken.names if id(taken[name]) in held or taken[name].numel() == 1}
    return patches, [name for name in taken if name not in read]


def without_settings(model: ModelPatcher, patches: WeightPatches) -> tuple[WeightPatches, WeightPatches, list[Any]]:
    """(patches of weights, settings that the MODEL's layers take, the others) of those that were made of a file."""
    settings = {key: patch for key, patch in patches.items() if kind_of(patch) == "config"}
    taken = set(model.clone().add_patches(settings, 0.0)) if settings else set()
    others = [patch for key, patch in settings.items() if key not in taken]
    of_weights = {key: patch for key, patch in patches.items() if key not in settings}
    return of_weights, {key: settings[key] for key in taken}, others


def numbers_of_patches(model: ModelPatcher) -> dict[str, int]:
    """How many patches each weight has, by full name."""
    return {name: len(patches) for name, patches in model.patches.items()}


def target_of(key: str | tuple[str, Rows]) -> tuple[str, Rows | None]:
    """The full name of the weight that a patch is for, and the part of it."""
    return (key, None) if isinstance(key, str) else (key[0], key[1])


def mapped(patch: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The same patch with the function applied to all of that kind in it, tensors for example."""
    if isinstance(patch, _ADAPTER):
        return type(patch)(patch.loaded_keys, mapped(patch.weights, kind, function))
    if isinstance(patch, (tuple, list)):
        return tuple(mapped(each, kind, function) for each in patch)
    return function(patch) if isinstance(patch, kind) else patch


def tensors_of(patch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(patch, Tensor, found.append)
    return found


def kind_of(patch: Any) -> str:
    """``lora``, ``diff`` and so on, as ComfyUI calls it."""
    return patch.name if isinstance(patch, _ADAPTER) else patch[0]


def is_known(patch: Any) -> bool:
    """Is this of a kind that is understood here, and leaves a weight its size?"""
    kind = kind_of(patch)
    return kind in ("diff", "set", *_DORA) and not (kind == "lora" and patch.weights[_RESHAPE] is not None)


def is_additive(patch: Any) -> bool:
    """Does a patch add the same to every weight? DoRA measures the weight, and a new weight takes its place."""
    kind = kind_of(patch)
    return kind == "diff" or (kind in _DORA and patch.weights[_DORA[kind]] is None)


def difference_of(patch: Any) -> Tensor | None:
    """What a patch adds to a weight, where it holds that as it is."""
    return patch[1][0] if kind_of(patch) == "diff" else None


def pair_of(patch: Any) -> tuple[Tensor, Tensor, float] | None:
    """(down [rank, in], up [out, rank], alpha) of a patch that is a low-rank pair and nothing else."""
    if kind_of(patch) != "lora" or not is_additive(patch):
        return None
    up, down, alpha, middle = patch.weights[:4]
    if middle is not None:
        return None
    return down.flatten(1), up.flatten(1), float(down.shape[0] if alpha is None else alpha)


def fits(patch: Any, shape: tuple[int, ...]) -> bool:
    """Can a weight of this shape, or the part that the patch is for, be patched so?"""
    if isinstance(patch, tuple):
        return patch[1][0].shape == shape
    if pair := pair_of(patch):
        down, up, _ = pair
        return up.shape == (shape[0], len(down)) and up.shape[0] * down.shape[1] == torch.Size(shape).numel()
    made: list[tuple[int, ...]] = []

    def note(change: Tensor) -> Tensor:
        made.append(tuple(change.shape))
        return change

    outline = mapped(patch, Tensor, lambda tensor: tensor.to("meta"))
    entry = (1.0, outline, 1.0, None, note)
    comfy.lora.calculate_weight([entry], torch.empty(shape, device="meta"), "")
    return made == [shape]


def patched(patch: Any, rows: Rows | None, weight: Tensor, strength: float, name: str) -> Tensor:
    """A weight with a patch in it, computed as ComfyUI does, in float32; the weight itself stays as it is."""
    entry = (strength, patch, 1.0, rows, None)
    return comfy.lora.calculate_weight([entry], weight.to(torch.float32, copy=True), name)
