"""The names in a DCM bundle as released: one state dict with a backbone, an adapter over it, and second copies.

In the terms of diffusers and PEFT, for a layer ``attn1.to_q`` and a twin of ``proj_out``:

* ``attn1.to_q.base_layer.weight`` (and ``.bias``): the backbone's weight, which is the semantic expert's
* ``attn1.to_q.lora_A.lora1.weight``, ``attn1.to_q.lora_B.lora1.weight``: the detail expert's low-rank pair
* ``proj_out_lora.weight``: the detail expert's copy of the whole layer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .keymap import KeyMap, UnknownKeyError

ALPHA_OVER_RANK = 2.0  # released adapters run at this scale; no file holds it
_BASE = ".base_layer."
_DOWN, _UP = ".lora_A.lora1.weight", ".lora_B.lora1.weight"
_TWIN = "_lora"


@dataclass(frozen=True)
class Bundle:
    """The names of a bundle by role. Every table goes from a diffusers name to the bundle's name of the tensor."""

    base: Mapping[str, str]
    down: Mapping[str, str]  # by module, as up
    up: Mapping[str, str]
    twins: Mapping[str, str]


def is_released(names: Iterable[str]) -> bool:
    """Does a file with these names hold an adapter and its backbone?"""
    return any(_BASE in name for name in names)


def read_names(keymap: KeyMap, names: Iterable[str]) -> Bundle:
    """Sort the names of a bundle by role.

    Raises UnknownKeyError for a second copy of a module that the family has no twin of, and ValueError for
    half a low-rank pair or one over a layer that is not there.
    """
    bundle = Bundle({}, {}, {}, {})
    for name in names:
        root, _, rest = name.partition(".")
        if name.endswith(_DOWN):
            bundle.down[name.removesuffix(_DOWN)] = name
        elif name.endswith(_UP):
            bundle.up[name.removesuffix(_UP)] = name
        elif root.endswith(_TWIN):
            original = root.removesuffix(_TWIN)
            if original not in keymap.twins:
                twins = ", ".join(f"{twin}{_TWIN}" for twin in keymap.twins)
                raise UnknownKeyError(
                    f"{name!r} is no tensor of a released {keymap.family} bundle; its copies are {twins}"
                )
            bundle.twins[f"{original}.{rest}"] = name
        else:
            bundle.base[name.replace(_BASE, ".")] = name
    halves = sorted(bundle.down.keys() ^ bundle.up.keys())
    homeless = [module for module in bundle.down if f"{module}.weight" not in bundle.base]
    if halves or homeless:
        wrong = [f"{name} has only half a low-rank pair" for name in halves]
        wrong += [f"{name} has a low-rank pair and no weight" for name in homeless]
        raise ValueError(f"the bundle is not whole: {'; '.join(wrong[:4])}")
    return bundle


def write_names(base: Iterable[str], adapted: Iterable[str], twins: Iterable[str]) -> Bundle:
    """The inverse: a bundle's names for diffusers tensors, adapted modules, and tensors with a twin."""
    adapted = set(adapted)

    def based(name: str) -> str:
        module, _, kind = name.rpartition(".")
        return f"{module}{_BASE}{kind}" if module in adapted else name

    def twin(name: str) -> str:
        root, _, rest = name.partition(".")
        return f"{root}{_TWIN}.{rest}"

    return Bundle(
        {name: based(name) for name in base},
        {module: module + _DOWN for module in sorted(adapted)},
        {module: module + _UP for module in sorted(adapted)},
        {name: twin(name) for name in twins},
    )
