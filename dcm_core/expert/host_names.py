"""The same weight under the names of different host versions.

HunyuanVideo's query and key norms are ``.scale`` in some versions of ComfyUI and ``.weight`` in others. A backbone
file needs no care, since every host reads ``.scale``; an expert that changes those norms does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..families.presets import FAMILIES
from .layers import Expert


def in_host_names(expert: Expert, names: Collection[str]) -> Expert:
    """The expert as it is for a backbone with these parameter names; the expert itself where nothing differs."""
    changed = (*[f"{name}.weight" for name in expert.layers], *expert.parameters)
    foreign = [name for name in changed if name not in names]
    if not foreign or expert.metadata.family not in FAMILIES:
        return expert
    keymap = FAMILIES[expert.metadata.family].keymap
    here = {name: other for name in foreign for other in keymap.comfy_names(name) if other in names}
    layers = dict(expert.layers)
    parameters = {here.get(name, name): difference for name, difference in expert.parameters.items()}
    for name, layer in expert.layers.items():
        other = here.get(f"{name}.weight")
        # By its other name it is a bare Parameter and no layer's weight, and of those there are differences only.
        if other and not layer.replaces and layer.tensors.keys() == {"weight"}:
            parameters[other] = layer.tensors["weight"]
            del layers[name]
    if layers.keys() == expert.layers.keys() and parameters.keys() == expert.parameters.keys():
        return expert
    return replace(expert, layers=layers, parameters=parameters)
