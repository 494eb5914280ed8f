"""Which backbone a file holds and in which layout, told from the names in its header. A layout is one of

* ``comfy``: ComfyUI's names, with any prefix (``model.diffusion_model.``, ``diffusion_model.``, none)
* ``diffusers``: the names of diffusers' transformer classes
* ``released``: a DCM bundle as published, backbone and detail expert in one file (``families/released.py``)

Each with any prefix, and with the names that wrappers of a network leave in those of its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import LayoutError, shortened
from ..expert.other_files import is_checkpoint, what_it_looks_like
from ..families.family import Family
from ..families.keymap import KeyMap
from ..families.presets import FAMILIES
from ..families.relatives import Relative, find_relative, unknown_relative
from ..families.released import Names, is_released, read_names
from .quantised import SCALES

Kind = Literal["comfy", "diffusers", "released"]

# What torch.compile, FSDP, activation checkpointing and DeepSpeed put around a module.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
# Models that share a file with a backbone in an all-in-one checkpoint.
_COMPANIONS = (
    "vae.",
    "first_stage_model.",
    "text_encoders.",
    "cond_stage_model.",
    "conditioner.",
    "model_ema.",
)


@dataclass(frozen=True)
class Layout:
    """What a backbone file is.

    * ``prefix``: what stands before every name of the file
    * ``variant``: size and task, for people: "14B T2V"
    * ``dtype``: of most weights, as safetensors names it: "BF16", "F8_E4M3"
    * ``scaled``: quantised weights, with scales beside them
    * ``rank``: of a released bundle's adapter; None where there is none
    * ``parameters``: numbers in the backbone, without adapters, copies and scales
    * ``relative``: what it is where it is no backbone of the family's own, but another over its network
    * ``doubt``: what is odd about its size, or nothing
    """

    family: Family
    kind: Kind
    prefix: str
    variant: str
    dtype: str
    scaled: bool
    rank: int | None
    parameters: int
    relative: Relative | None = None
    doubt: str = ""

    def describe(self) -> str:
        """One line: what the file is."""
        layout = {
            "comfy": "ComfyUI layout",
            "diffusers": "diffusers layout",
            "released": f"released DCM bundle with a detail expert of rank {self.rank}",
        }[self.kind]
        if self.kind == "released" and self.rank is None:
            layout = "released DCM bundle without the low-rank pairs of a detail expert"
        dtype = f"scaled {self.dtype}" if self.scaled else self.dtype
        return f"{self.variant}, {layout}, {dtype}, {count_text(self.parameters)} parameters"


def count_text(count: int) -> str:
    """``1.30B``; of small networks ``1.4M``."""
    return f"{count / 1e9:.2f}B" if count >= 10**8 else f"{count / 1e6:.1f}M"


def without_wrappers(name: str) -> str:
    """A tensor's or a layer's name without those that wrappers of a network leave in it."""
    return _WRAPPERS.sub("", name)


def unwrapped(names: Collection[str]) -> dict[str, str]:
    """Names without those of wrappers -> the file's own. Raises LayoutError for two that are one then."""
    table: dict[str, str] = {}
    for name in names:
        if (bare := without_wrappers(name)) in table:
            raise LayoutError(f"{name} and {table[bare]} are one tensor twice. Export the model again.")
        table[bare] = name
    return table


def recognise(names: Collection[str]) -> tuple[KeyMap, Kind, str]:
    """The network class of the backbone whose file has these names, its layout, and the prefix of the names.

    Raises LayoutError that says what the file looks like instead.
    """
    tables = {id(family.keymap): family.keymap for family in FAMILIES.values()}.values()
    for table in tables if not is_checkpoint(names) else ():
        weights: dict[Kind, str] = {
            "comfy": table.recognised_by.comfy,
            "diffusers": table.recognised_by.sources[0],
        }
        for kind, weight in weights.items():
            found = [name for name in names if name == weight or name.endswith(f".{weight}")]
            if found:
                released = kind == "diffusers" and is_released(names)
                return table, "released" if released else kind, min(found, key=len).removesuffix(weight)
    titles = list(dict.fromkeys(family.title for family in FAMILIES.values() if not family.host_latents))
    known = f"{', '.join(titles[:-1])} or {titles[-1]}"
    raise LayoutError(f"this is no {known} backbone: {what_it_looks_like(names)}")


def sort_names(table: KeyMap, kind: Kind, prefix: str, names: Mapping[str, str]) -> tuple[Names, dict[str, str]]:
    """A backbone file's names by role, and those of the scales of quantised weights: without prefix -> in the file.

    ``names`` as ``unwrapped`` gives them. Raises LayoutError where the file holds other models too, or half an adapter.
    """
    if prefix:
        others = [name for name in names if not name.startswith(prefix)]
    else:
        others = [name for name in names if name.startswith(_COMPANIONS)]
    if others:
        raise LayoutError(
            f"beside the backbone this file holds other tensors ({shortened(others, 4)}): it is an all-in-one "
            "checkpoint. Load it with Load Checkpoint, and give its MODEL to DCM Apply Experts."
        )
    spelled = table.spelled if kind == "comfy" else str
    bare = {spelled(name.removeprefix(prefix)): there for name, there in names.items()}
    scales = {name: there for name, there in bare.items() if name.endswith(SCALES)}
    weights = {name: there for name, there in bare.items() if name not in scales} if scales else bare
    try:
        return read_names(table, weights) if kind == "released" else Names(weights), scales
    except ValueError as error:
        raise LayoutError(str(error)) from error


def relative_by_name(table: KeyMap, kind: Kind, names: Collection[str]) -> Relative | None:
    """The relative that these names (of the backbone, without prefix) tell.

    Raises LayoutError for one whose file is of a layout that only the family's own can be read in.
    """
    title, relatives = relatives_of(table)
    found = find_relative(relatives, names)
    if found is None and kind != "released":
        found = unknown_relative(table, title, names)
    if found and found.other_latents:
        raise LayoutError(found.refusal(title))
    if found and kind != "comfy":
        raise LayoutError(
            f"this is {found.named()} in diffusers layout, which DCM cannot translate: take the file of it that is "
            f"made for ComfyUI, or a {title} backbone."
        )
    return found


def relatives_of(table: KeyMap) -> tuple[str, list[Relative]]:
    """The title of the families of this network class, and their relatives."""
    families = [family for family in FAMILIES.values() if family.keymap is table]
    # Shapes shares Wan's network, and has none of its own.
    titled = next((family for family in families if family.relatives), families[0])
    return titled.title, [*titled.relatives]
