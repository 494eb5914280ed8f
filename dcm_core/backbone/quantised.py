"""How the weights of a backbone file are quantised: what stands beside them, and what the file says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod

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
_INTEGERS = ("I", "U", "BOOL")

Infos = Mapping[str, TensorInfo]


def layers_in_header(headers: Iterable[Mapping[str, str]]) -> dict[str, dict]:
    """What the headers of a file's parts say of layers, by the names there. Raises LayoutError for what is no such
    table."""
    said = [header[QUANTISED] for header in headers if QUANTISED in header]
    try:
        return {name: dict(how) for each in said for name, how in json.loads(each)["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(f"the header's {QUANTISED} cannot be read. Download the file again.") from error


def formats(layers: Mapping[str, dict], scales: Mapping[str, str], read: Callable[[str], Tensor]) -> list[str]:
    """ComfyUI's names of the ways in which layers are quantised: "nvfp4". Old files in scaled fp8 say none.

    ``layers`` from the header, ``scales`` by their names in the file. Raises LayoutError for what cannot be read.
    """
    confs = list(layers.values())
    for name, there in scales.items():
        if name.endswith(OF_LAYER):
            try:
                confs.append(dict(json.loads(bytes(read(there).flatten().tolist()))))
            except (ValueError, TypeError) as error:
                raise LayoutError(f"{there} cannot be read. Download the file again.") from error
    return sorted({str(conf.get("format", "something without a name")) for conf in confs})


def logical_shapes(infos: Infos, beside: Infos) -> dict[str, tuple[int, ...]]:
    """Shapes as the network has them. ``beside``: the scales; where they tell of two numbers in each byte, a weight
    has twice the columns that are stored.

    Headers tell it of every file, ComfyUI's names of formats only of those that have been read.
    """
    packed = {name for name, info in infos.items() if _is_packed(name.removesuffix(".weight"), info, beside)}
    return {
        name: (*info.shape[:-1], 2 * info.shape[-1]) if name in packed else info.shape for name, info in infos.items()
    }


def _is_packed(layer: str, info: TensorInfo, beside: Infos) -> bool:
    if len(info.shape) != 2 or info.dtype not in ("U8", "I8"):
        return False
    scale = beside.get(f"{layer}.weight_scale")
    # One byte for each number has a scale for all or a column of them: in 4 bits it is a vector.
    vector = scale is not None and scale.shape == info.shape[:1] and prod(scale.shape) > 1
    return f"{layer}.weight_scale_2" in beside or f"{layer}.weight_s_rel" in beside or vector


def require_scales(keymap: KeyMap, infos: Infos, beside: Iterable[str], told: Iterable[str]) -> None:
    """Raises LayoutError for weights that are integers, or of layers ``told`` to be quantised, without scales."""
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
    if lost := sorted(layer for layer in layers - scaled if f"{layer}.weight" in infos):
        raise LayoutError(
            f"{len(lost)} layers are said to be quantised, but have no scales ({shortened(lost, 3)}): the file is not "
            "whole. Download it again."
        )
