"""Which backbone a file holds and in which layout, told from its header; and the way from one layout to another.

Nothing here reads a tensor. A layout is one of

* ``comfy``: ComfyUI's names, with any prefix (``model.diffusion_model.``, ``diffusion_model.``, none)
* ``diffusers``: the names of diffusers' transformer classes
* ``released``: a DCM bundle as published, backbone and detail expert in one file (``keymaps/released.py``)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from ..errors import LayoutError, shortened
from ..families.family import Family
from ..families.keymap import KeyMap
from ..families.presets import FAMILIES
from ..families.recipe import Recipe
from ..families.released import is_released, read_names
from ..files.format import TensorInfo
from .strangers import what_it_looks_like

Kind = Literal["comfy", "diffusers", "released"]
Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Layout:
    """What a backbone file is.

    * ``prefix``: what stands before every name of the file
    * ``variant``: size and task, for people: "14B T2V"
    * ``dtype``: of most weights, as safetensors names it: "BF16", "F8_E4M3"
    * ``scaled``: one-byte weights with a scale each
    * ``rank``: of a released bundle's adapter
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

    @property
    def keymap(self) -> KeyMap:
        return self.family.keymap

    def describe(self) -> str:
        """One line: what the file is."""
        layout = {
            "comfy": "ComfyUI layout",
            "diffusers": "diffusers layout",
            "released": f"released DCM bundle with a detail expert of rank {self.rank}",
        }[self.kind]
        dtype = f"scaled {self.dtype}" if self.scaled else self.dtype
        return f"{self.variant}, {layout}, {dtype}, {self.parameters / 1e9:.2f}B parameters"


def recognise(infos: Infos) -> Layout:
    """Tell a backbone from the names, dtypes and shapes of its file (of all its files, where it is sharded).

    Raises LayoutError that names what the file looks like instead.
    """
    for table in {id(family.keymap): family.keymap for family in FAMILIES.values()}.values():
        for kind, mark in (("comfy", table.mark.comfy), ("diffusers", table.mark.diffusers)):
            found = [name for name in infos if name == mark or name.endswith(f".{mark}")]
            if found:
                return _layout(table, kind, min(found, key=len).removesuffix(mark), infos)
    raise LayoutError(f"this is no Wan, HunyuanVideo or CogVideoX backbone: {what_it_looks_like(infos)}")


def backbone_recipes(layout: Layout, infos: Infos, to: Literal["comfy", "diffusers"]) -> dict[str, Recipe]:
    """How to make every tensor of the backbone in another layout, without prefix, from those of the file.

    Of a released bundle this is the backbone as the semantic expert runs it. A ComfyUI file to ``comfy`` keeps
    everything it has, tensors of no table included. Raises LayoutError for a tensor that fits no row, one that
    is missing, and quantised weights that the other layout has no names for.
    """
    names = _base_names(layout, infos)
    if layout.kind == "comfy" and to == "comfy":
        return {name: Recipe.copy(there) for name, there in names.items()}
    known = {name: infos[there] for name, there in names.items()}
    _refuse_quantised(known)
    table = layout.keymap
    try:
        if layout.kind == "comfy":
            lost, recipes = table.missing(known), table.recipes_to_diffusers(known)
        else:
            recipes = table.recipes_to_comfy(known)
            lost = table.missing(recipes)
            if to == "diffusers":
                recipes = {name: Recipe.copy(name) for name in known}
    except ValueError as error:
        raise LayoutError(str(error)) from error
    if lost:
        raise LayoutError(
            f"{len(lost)} tensors are missing ({shortened(lost)}): the file is cut off, or a part of a sharded "
            "model. Download it again, or open the folder with all its parts."
        )
    return {name: recipe.renamed(names) for name, recipe in recipes.items()}


_SCALES = (
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


def _is_scale(name: str) -> bool:
    return name == "scaled_fp8" or name.endswith(_SCALES)


def _layout(table: KeyMap, kind: str, prefix: str, infos: Infos) -> Layout:
    if kind == "diffusers" and is_released(infos):
        kind = "released"
    families = [family for family in FAMILIES.values() if family.keymap is table]
    layout = Layout(families[0], kind, prefix, "", "", any(map(_is_scale, infos)), None, 0)
    weights = {
        name: infos[there] for name, there in _base_names(layout, infos).items() if not _is_scale(name)
    }
    dtypes: Counter[str] = Counter()
    for info in weights.values():
        dtypes[info.dtype] += prod(info.shape)
    try:
        shapes = {name: info.shape for name, info in _comfy_infos(layout, weights).items()}
        variant, family = table.variant(shapes), next(each for each in families if each.belongs(shapes))
    except (ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise LayoutError(f"this looks like a {table.family} backbone, but {error}") from error
    rank = None
    if kind == "released":
        downs = read_names(table, bare_names(layout, infos)).down.values()
        rank = max((infos[prefix + name].shape[0] for name in downs), default=None)
    return Layout(
        family, kind, prefix, variant, dtypes.most_common(1)[0][0], layout.scaled, rank, dtypes.total()
    )


def _comfy_infos(layout: Layout, weights: Infos) -> Infos:
    if layout.kind == "comfy":
        return weights
    return {name: recipe.info(weights) for name, recipe in layout.keymap.recipes_to_comfy(weights).items()}


def bare_names(layout: Layout, infos: Infos) -> dict[str, str]:
    """Names without prefix -> names in the file. Raises LayoutError where the file holds other models too."""
    others = [name for name in infos if not name.startswith(layout.prefix)]
    if layout.prefix == "":
        others = [name for name in infos if name.startswith(_COMPANIONS)]
    if others:
        raise LayoutError(
            f"beside the backbone this file holds other tensors ({shortened(others, 4)}): it is an all-in-one "
            "checkpoint. Load it with Load Checkpoint, and give its MODEL to DCM Apply Experts."
        )
    return {name.removeprefix(layout.prefix): name for name in infos}


def _base_names(layout: Layout, infos: Infos) -> dict[str, str]:
    """The backbone's tensors: names in its own naming, without prefix -> names in the file."""
    bare = bare_names(layout, infos)
    if layout.kind != "released":
        return bare
    try:
        base = read_names(layout.keymap, bare).base
    except ValueError as error:
        raise LayoutError(str(error)) from error
    return {name: bare[there] for name, there in base.items()}


def _refuse_quantised(names: Iterable[str]) -> None:
    if scales := [name for name in names if _is_scale(name)]:
        raise LayoutError(
            f"the weights are scaled fp8 ({shortened(scales, 2)}), which other layouts have no names for: "
            "convert the bf16 or fp16 file instead, or use this one as it is in ComfyUI."
        )
