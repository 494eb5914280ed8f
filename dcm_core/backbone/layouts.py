"""Which backbone a file holds and in which layout, told from the names in its header. A layout is one of

* ``comfy``: ComfyUI's names, with any prefix (``model.diffusion_model.``, ``diffusion_model.``, none)
* ``diffusers``: the names of diffusers' transformer classes
* ``released``: a DCM bundle as published, backbone and detail expert in one file (``families/released.py``)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..errors import LayoutError, shortened
from ..families.family import Family
from ..families.keymap import KeyMap
from ..families.presets import FAMILIES
from ..families.released import Names, is_released, read_names
from .other_models import what_it_looks_like

Kind = Literal["comfy", "diffusers", "released"]

SCALES = (
    "scaled_fp8",
    ".scale_weight",
    ".scale_input",
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".comfy_quant",
)
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
    * ``scaled``: one-byte weights with a scale each
    * ``rank``: of a released bundle's adapter; None where there is none
    * ``parameters``: numbers in the backbone, without adapters, copies and scales
    """

    family: Family
    kind: Kind
    prefix: str
    variant: str
    dtype: str
    scaled: bool
    rank: int | None
    parameters: int

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


def recognise(names: Collection[str]) -> tuple[KeyMap, Kind, str]:
    """The network class of the backbone whose file has these names, its layout, and the prefix of the names.

    Raises LayoutError that says what the file looks like instead.
    """
    for table in {id(family.keymap): family.keymap for family in FAMILIES.values()}.values():
        marks: tuple[tuple[Kind, str], ...] = (
            ("comfy", table.recognised_by.comfy),
            ("diffusers", table.recognised_by.sources[0]),
        )
        for kind, mark in marks:
            found = [name for name in names if name == mark or name.endswith(f".{mark}")]
            if found:
                released = kind == "diffusers" and is_released(names)
                return table, "released" if released else kind, min(found, key=len).removesuffix(mark)
    raise LayoutError(f"this is no Wan, HunyuanVideo or CogVideoX backbone: {what_it_looks_like(names)}")


def sort_names(table: KeyMap, kind: Kind, prefix: str, names: Collection[str]) -> tuple[Names, dict[str, str]]:
    """A backbone file's names by role, and those of the scales of one-byte weights: without prefix -> in the file.

    Raises LayoutError where the file holds other models too, or half an adapter.
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
    bare = {name.removeprefix(prefix): name for name in names}
    scales = {name: there for name, there in bare.items() if name.endswith(SCALES)}
    weights = {name: there for name, there in bare.items() if name not in scales} if scales else bare
    try:
        return read_names(table, weights) if kind == "released" else Names(weights), scales
    except ValueError as error:
        raise LayoutError(str(error)) from error
