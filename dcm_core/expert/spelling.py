"""The same weight under the names of different host versions.

HunyuanVideo's query and key norms are ``.scale`` in some versions of ComfyUI and ``.weight`` in others. A backbone
file needs no care, since every host reads ``.scale``; an expert that changes those norms does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from ..families.keymap import KeyMap
from ..families.presets import FAMILIES
from .layers import Difference, Expert, Layer


def as_spelled(expert: Expert, names: Collection[str]) -> Expert:
    """The expert as it is for a backbone with these parameter names; the expert itself where nothing differs."""
    if expert.metadata.family not in FAMILIES:
        return expert
    table = FAMILIES[expert.metadata.family].keymap
    layers: dict[str, Layer] = {}
    parameters: dict[str, Tensor] = {}
    for name, layer in expert.layers.items():
        full = f"{name}.weight"
        there = _spelled(table, full, names)
        if there != full and isinstance(layer, Difference) and layer.weight is not None:
            parameters[there] = layer.weight
        else:
            layers[name] = layer
    for name, difference in expert.parameters.items():
        parameters[_spelled(table, name, names)] = difference
    if layers.keys() == expert.layers.keys() and parameters.keys() == expert.parameters.keys():
        return expert
    return replace(expert, layers=layers, parameters=parameters)


def _spelled(table: KeyMap, name: str, names: Collection[str]) -> str:
    return (
        next((each for each in table.spellings(name) if each in names), name) if name not in names else name
    )
