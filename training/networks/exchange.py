"""Weights in and out: between a diffusers network and the files ComfyUI reads, by the family's key map."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcm_core.errors import ExpertFileError
from dcm_core.expert.file import all_finite, refuse_non_finite
from dcm_core.expert.layers import Difference, Expert, Layer, LowRank
from dcm_core.expert.merge import in_one_layer, layers_of, weight_differences, with_difference
from dcm_core.families.keymap import KeyMap, UnknownKeyError
from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors

from ..errors import MisfitExpert
from ..run.parallel import gathered
from .adapter import add_adapter, fill_adapter, frozen_state

State = dict[str, Tensor]


def save_backbone(path: Path, state: Mapping[str, Tensor], dtype: torch.dtype, metadata: dict[str, str]) -> None:
    """Write a whole backbone, given under ComfyUI's names, as a file for `diffusion_models`.

    Raises ExpertFileError, as experts do, where a weight is not finite, or is not in ``dtype``.
    """
    tensors = {name: tensor.to("cpu", dtype) for name, tensor in state.items()}
    refuse_non_finite([name for name, tensor in tensors.items() if not all_finite(tensor)])
    with atomic_write(path) as file:
        write_tensors(file, tensors, metadata)


def apply_expert(model: nn.Module, expert: Expert, keymap: KeyMap) -> None:
    """Add an expert to the weights of a network without adapters, tensor by tensor, each in the dtype it has.

    Raises MisfitExpert naming what does not fit.
    """
    try:
        state = comfy_state(model, keymap)
        differences = weight_differences(expert, state)
        recipes = keymap.recipes_to_diffusers(state)
    except (ExpertFileError, UnknownKeyError) as error:
        raise MisfitExpert(f"The {expert.metadata.expert} expert does not fit this backbone: {error}") from None

    @lru_cache(maxsize=1)  # the rows of a fused weight go to several
    def changed(name: str) -> Tensor:
        return with_difference(state[name], differences[name]) if name in differences else state[name]

    weights = model.state_dict()
    for name, recipe in recipes.items():
        weights[name].copy_(recipe.build(changed))


def lay_expert(model: nn.Module, acting: list[str], name: str, expert: Expert, keymap: KeyMap) -> None:
    """Lay a low-rank expert over a network as a frozen adapter. Raises MisfitExpert where it is none or misfits."""
    try:
        layers = diffusers_layers(expert.layers, keymap)
        pairs = {module: layer for module, layer in layers.items() if isinstance(layer, LowRank)}
        if not pairs or expert.parameters:
            raise ValueError("it changes all weights. Train it with mode: adapter, or this stage with mode: full")
        first = next(iter(pairs.values()))
        whole = [module for module in layers if module not in pairs]
        add_adapter(model, acting, name, list(pairs), whole, first.rank, first.alpha, seed=0)
        fill_adapter(model, name, layers)
    except (UnknownKeyError, AttributeError, ValueError) as error:
        raise MisfitExpert(
            f"The {expert.metadata.expert} expert cannot be an adapter of this backbone: {error}."
        ) from None


def comfy_layers(model: nn.Module, layers: Mapping[str, Layer], keymap: KeyMap) -> dict[str, Layer]:
    """Layers by diffusers module name as ComfyUI has them, where several projections may lie in one."""
    pairs = {module: layer for module, layer in layers.items() if isinstance(layer, LowRank)}
    changed: dict[str, Layer] = {}
    for module in dict.fromkeys(map(keymap.module_to_comfy, pairs)):
        rows = sum(_rows(model, weight.removesuffix(".weight")) for weight in keymap.sources(f"{module}.weight"))
        changed[module] = in_one_layer([pairs[each] for each in keymap.adapted(module)], rows)
    whole = {
        f"{module}.{key}": difference
        for module, layer in layers.items()
        if module not in pairs
        for key, difference in layer.tensors.items()
    }
    return changed | layers_of(keymap.state_to_comfy(whole))[0]


def diffusers_layers(layers: Mapping[str, Layer], keymap: KeyMap) -> dict[str, Layer]:
    """The inverse of ``comfy_layers``."""
    pairs: dict[str, Layer] = {}
    whole: State = {}
    for module, layer in layers.items():
        if isinstance(layer, Difference):
            whole |= {f"{module}.{key}": difference for key, difference in layer.tensors.items()}
        else:
            pairs |= zip(keymap.adapted(module), (pair for _, pair in layer.pairs), strict=True)
    return pairs | layers_of(keymap.state_to_diffusers(whole))[0]


def _rows(model: nn.Module, name: str) -> int:
    linear: Any = model.get_submodule(name)
    return linear.out_features


def comfy_state(model: nn.Module, keymap: KeyMap) -> State:
    """The weights of a network below its adapters, under ComfyUI's names; as ``gathered`` has them."""
    return keymap.state_to_comfy(gathered(frozen_state(model)))


def with_layers(state: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> State:
    """A state with such layers added, both under ComfyUI's names."""
    changed = dict(state)
    for module, layer in layers.items():
        for key, difference in layer.delta({}).items():
            changed[f"{module}.{key}"] = with_difference(state[f"{module}.{key}"], difference.cpu())
    return changed
