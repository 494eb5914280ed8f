"""How the weights of a backbone file are quantised: what stands beside them, and what the file says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil, prod

from torch import Tensor

from ..errors import LayoutError, shortened
from ..families.keymap import KeyMap
from ..files.format import TensorInfo

# The entry of a header in which newer versions of ComfyUI say how each layer is quantised.
QUANTISED = "_quantization_metadata"
# The tensor in which a file without that entry says it of the layer it stands in, as bytes of JSON.
OF_LAYER = ".comfy_quant"
# What stands beside quantised weights, by how the names end.
SCALES = (
    "scaled_fp8",
    ".scale_weight",
    ".scale_input",
    ".weight_scale",
    ".weight_scale_2",
    ".weight_s_rel",
    ".weight_s_channel",
    ".weight_codebook",
    ".weight_correction",
    ".input_scale",
    ".pre_quant_scale",
    OF_LAYER,
)
# Those of them without which there is no weight.
_OF_WEIGHTS = (".scale_weight", ".weight_scale", ".weight_s_rel")
# And those whose zeros make a weight of zeros.
MULTIPLIED = (*_OF_WEIGHTS, ".weight_scale_2", ".weight_s_channel", ".weight_codebook")
_INTEGERS = ("I", "U", "BOOL")

Infos = Mapping[str, TensorInfo]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Stored:
    """How a format stores a layer: ``dtypes`` of the weight, and the shapes that what stands beside one of so many rows
    and columns may have."""

    dtypes: tuple[str, ...]
    beside: Mapping[str, Callable[[int, int], list[Shape]]]


def _one(rows: int, columns: int) -> list[Shape]:
    return [(1, 1), (1,), ()]


def _one_or_rows(rows: int, columns: int) -> list[Shape]:
    return [*_one(rows, columns), (rows, 1)]


def _rows(rows: int, columns: int) -> list[Shape]:
    return [(rows,)]


def _tiles(group: int) -> Callable[[int, int], list[Shape]]:
    """One for each group of numbers in a row, filled up to tiles of 128 by 4."""

    def shapes(rows: int, columns: int) -> list[Shape]:
        down, across = 128 * ceil(rows / 128), 4 * ceil(columns / group / 4)
        return [(down * across,), (down, across)]

    return shapes


# By ComfyUI's names of formats, and of files that are older than these by their scales.
_OLD = ".scale_weight"
_STORED = {
    _OLD: _Stored(("F8_E4M3", "F8_E5M2"), {_OLD: _one_or_rows}),
    "float8_e4m3fn": _Stored(("F8_E4M3",), {".weight_scale": _one_or_rows}),
    "float8_e5m2": _Stored(("F8_E5M2",), {".weight_scale": _one_or_rows}),
    "mxfp8": _Stored(("F8_E4M3",), {".weight_scale": _tiles(32)}),
    "nvfp4": _Stored(("U8",), {".weight_scale": _tiles(16), ".weight_scale_2": _one}),
    "int8_tensorwise": _Stored(("I8",), {".weight_scale": lambda *size: [(1, size[0]), *_one_or_rows(*size)]}),
    "convrot_w4a4": _Stored(("I8", "U8"), {".weight_scale": _rows}),
    "asym_w4a8_int8": _Stored(("I8", "U8"), {".weight_s_channel": _rows, ".weight_codebook": lambda *_: [(16,)]}),
    "w6a8_int8": _Stored(("I8", "U8"), {".weight_s_channel": _rows}),
}


def layers_in_header(headers: Iterable[Mapping[str, str]]) -> dict[str, dict]:
    """What the headers of a file's parts say of layers, by the names there. Raises LayoutError for what is no such
    table."""
    said = [header[QUANTISED] for header in headers if QUANTISED in header]
    try:
        return {name: dict(how) for each in said for name, how in json.loads(each)["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(f"the header's {QUANTISED} cannot be read. Download the file again.") from error


def layers_said(
    layers: Mapping[str, dict], scales: Mapping[str, str], read: Callable[[str], Tensor]
) -> dict[str, dict]:
    """How each layer is said to be quantised. Old files in scaled fp8 say it of none.

    ``layers`` from the header, ``scales`` by their names in the file. Raises LayoutError for what cannot be read.
    """
    said = dict(layers)
    for name, there in scales.items():
        if name.endswith(OF_LAYER):
            try:
                said[name.removesuffix(OF_LAYER)] = dict(json.loads(bytes(read(there).flatten().tolist())))
            except (ValueError, TypeError) as error:
                raise LayoutError(f"{there} cannot be read. Download the file again.") from error
    return said


def formats(said: Iterable[Mapping]) -> list[str]:
    """ComfyUI's names of the ways in which layers are quantised: "nvfp4"."""
    return sorted({str(how.get("format", "something without a name")) for how in said})


def logical_shapes(infos: Infos, beside: Infos) -> dict[str, tuple[int, ...]]:
    """Shapes as the network has them. ``beside``: the scales; where they tell of several numbers in a byte, or in a few
    of them, a weight has more columns than are stored.

    Headers tell it of every file, ComfyUI's names of formats only of those that have been read.
    """
    return {name: _logical_shape(name.removesuffix(".weight"), info, beside) for name, info in infos.items()}


def _logical_shape(layer: str, info: TensorInfo, beside: Infos) -> Shape:
    if len(info.shape) != 2 or info.dtype not in ("U8", "I8"):
        return info.shape
    rows, stored = info.shape
    scale, groups = (beside.get(f"{layer}.{end}") for end in ("weight_scale", "weight_s_rel"))
    # Groups are of a power of two numbers: in 6 bits the bytes of one are three times such a power.
    if groups is not None and rows * stored // max(1, prod(groups.shape)) % 3 == 0:
        return rows, stored * 4 // 3
    # One byte for each number has a scale for all or a column of them: in 4 bits it is a vector.
    vector = scale is not None and scale.shape == info.shape[:1] and prod(scale.shape) > 1
    packed = groups is not None or f"{layer}.weight_scale_2" in beside or vector
    return rows, 2 * stored if packed else stored


def require_scales(keymap: KeyMap, infos: Infos, beside: Iterable[str], told: Iterable[str]) -> None:
    """Raises LayoutError for weights without scales: integers, of layers ``told`` to be quantised, and in one byte
    where their like in other blocks have them."""
    beside = list(beside)
    scaled = {name.rpartition(".")[0] for name in beside if name.endswith(_OF_WEIGHTS)}
    integers = [name for name in infos if infos[name].dtype.startswith(_INTEGERS)]
    if wrong := [name for name in keymap.known(integers) if name.rpartition(".")[0] not in scaled]:
        raise LayoutError(
            f"{len(wrong)} weights are stored as integers ({infos[wrong[0]].dtype}) without scales "
            f"({shortened(wrong, 3)}): they were quantised in a way that DCM does not know, or their scales were lost. "
            "Take the bf16 file."
        )
    layers = {*told, *(name.removesuffix(OF_LAYER) for name in beside if name.endswith(OF_LAYER))}
    small = {name.removesuffix(".weight") for name, info in infos.items() if info.dtype.startswith("F8")}
    like = {_in_any_block(layer) for layer in small & scaled}
    layers |= {layer for layer in small if _in_any_block(layer) in like}
    if lost := sorted(layer for layer in layers - scaled if f"{layer}.weight" in infos):
        raise LayoutError(
            f"{len(lost)} layers are quantised, but have no scales ({shortened(lost, 3)}): the file is not "
            "whole. Download it again."
        )


def _without_a_part(said: Mapping[str, Mapping], beside: Iterable[str]) -> list[str]:
    """What layers lack beside their weight that their like in other blocks, of the same format, have.

    Some parts may be absent altogether, such as a codebook, without which the numbers stand for themselves.
    """
    beside, kinds = set(beside), {}
    for layer, how in said.items():
        stored = _STORED.get(str(how.get("format")))
        for end in stored.beside if stored else ():
            kinds.setdefault((str(how.get("format")), _in_any_block(layer), end), []).append(f"{layer}{end}")
    lost = [name for names in kinds.values() if not beside.isdisjoint(names) for name in names if name not in beside]
    return [f"{name} missing" for name in lost]


def _in_any_block(layer: str) -> str:
    return re.sub(r"\.\d+(?=\.)", "", layer, count=1)


def require_as_said(said: Mapping[str, Mapping], infos: Infos, shapes: Mapping[str, Shape], beside: Infos) -> None:
    """Raises LayoutError for layers that are not stored as they are ``said`` to be, and scales of another shape.

    The host would take some of them without a word. ``shapes`` as the network has them. Formats that are not known here
    are not asked: they may be of a newer ComfyUI.
    """
    old = {name.removesuffix(_OLD): {"format": _OLD} for name in beside if name.endswith(_OLD)}
    wrong = _without_a_part({**old, **said}, beside)
    for layer, how in {**old, **said}.items():
        stored, shape = _STORED.get(str(how.get("format"))), shapes.get(f"{layer}.weight", ())
        if stored is None or len(shape) != 2:
            continue
        dtype = infos[f"{layer}.weight"].dtype
        if dtype not in stored.dtypes:
            wrong.append(f"{layer}.weight in {dtype} as {how['format']}")
        for end, fitting in stored.beside.items():
            name = f"{layer}{end}"
            if name in beside and beside[name].shape not in (fits := fitting(*shape)):
                wrong.append(f"{name} {list(beside[name].shape)} for {list(fits[-1])}")
    if wrong:
        raise LayoutError(
            f"{len(wrong)} tensors do not fit how their layers are said to be quantised ({shortened(wrong, 3)}): the "
            "file is damaged, or was put together of two. Download it again."
        )
