"""The names in a DCM bundle as released: one state dict with a backbone, an adapter over it, and second copies.

In the terms of diffusers and PEFT, for a layer ``attn1.to_q`` and a twin of ``proj_out``:

* ``attn1.to_q.base_layer.weight`` (and ``.bias``): the backbone's weight, which is the semantic expert's
* ``attn1.to_q.lora_A.lora1.weight``, ``attn1.to_q.lora_B.lora1.weight``: the detail expert's low-rank pair
* ``proj_out_lora.weight``: the detail expert's copy of the whole layer
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .keymap import KeyMap, UnknownKeyError

ALPHA_OVER_RANK = 2.0  # released adapters run at this scale; no file holds it
_BASE = ".base_layer."
_DOWN, _UP = ".lora_A.lora1.weight", ".lora_B.lora1.weight"
_ADAPTER = re.compile(r"\.lora_[AB]\.(\w+)\.weight$")
_TWIN = "_lora"


@dataclass(frozen=True)
class Names:
    """The names of a backbone file by role, each table from a name in diffusers' terms to the file's own.

    * ``base``: the backbone's tensors (of a file in ComfyUI layout, from ComfyUI's names)
    * ``down``, ``up``: of low-rank pairs, by module
    * ``twins``: second copies, by the name of the first
    """

    base: Mapping[str, str]
    down: Mapping[str, str] = field(default_factory=dict)
    up: Mapping[str, str] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)


def is_released(names: Iterable[str]) -> bool:
    """Does a file with these names hold an adapter and its backbone?"""
    return _BASE in "\n".join(names)


def read_names(keymap: KeyMap, names: Mapping[str, str]) -> Names:
    """Sort the names of a bundle by role; ``names`` go from those without prefix to the file's own.

    Raises UnknownKeyError for a second copy of a module that the family has no twin of, and ValueError for an adapter
    of another name, half a low-rank pair, or one over a layer that is not there.
    """
    adapters = {match[1] for match in map(_ADAPTER.search, names) if match}
    if others := sorted(adapters - {"lora1"}):
        raise ValueError(
            f"it holds a {keymap.network} backbone with the LoRA {', '.join(map(repr, others))} in its layers, as PEFT "
            "saves one, and no released bundle, whose adapter is called 'lora1'. Take the backbone without the LoRA."
        )
    base: dict[str, str] = {}
    down: dict[str, str] = {}
    up: dict[str, str] = {}
    twins: dict[str, str] = {}
    for name, there in names.items():
        root, _, rest = name.partition(".")
        if name.endswith(_DOWN):
            down[name.removesuffix(_DOWN)] = there
        elif name.endswith(_UP):
            up[name.removesuffix(_UP)] = there
        elif root.endswith(_TWIN):
            original = root.removesuffix(_TWIN)
            if original not in keymap.twins:
                known = ", ".join(f"{twin}{_TWIN}" for twin in keymap.twins)
                raise UnknownKeyError(
                    f"{name!r} is no tensor of a released {keymap.network} bundle; its copies are {known}"
                )
            twins[f"{original}.{rest}"] = there
        else:
            base[name.replace(_BASE, ".")] = there
    wrong = [f"{module} has only half a low-rank pair" for module in sorted(down.keys() ^ up.keys())]
    wrong += [f"{module} has a low-rank pair and no weight" for module in down if f"{module}.weight" not in base]
    if wrong:
        raise ValueError(f"the bundle is not whole: {'; '.join(wrong[:4])}")
    return Names(base, down, up, twins)


def write_names(base: Iterable[str], adapted: Iterable[str], twins: Iterable[str]) -> Names:
    """The inverse: a bundle's names for diffusers tensors, adapted modules, and tensors with a twin."""
    adapted = set(adapted)

    def based(name: str) -> str:
        module, _, kind = name.rpartition(".")
        return f"{module}{_BASE}{kind}" if module in adapted else name

    def twin(name: str) -> str:
        root, _, rest = name.partition(".")
        return f"{root}{_TWIN}.{rest}"

    return Names(
        {name: based(name) for name in base},
        {module: module + _DOWN for module in sorted(adapted)},
        {module: module + _UP for module in sorted(adapted)},
        {name: twin(name) for name in twins},
    )
