"""The self-describing expert file: one safetensors file that holds an expert and says what it is.

The tensors are named as in ComfyUI LoRA files (``tensor_names``). Where the backbone has q, k and v in one layer, their
pairs are one block-diagonal pair in the file, and are taken apart again on reading. The metadata is
``ExpertMetadata`` plus

* ``dcm.layers``      how many layers and bare Parameters the file changes,
* ``dcm.parameters``  which names are bare Parameters, comma-separated,
* ``dcm.digest``      SHA-256 of the metadata and tensors, so that no damage goes unnoticed.
"""

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ExpertFileError, shortened
from ..families.presets import FAMILIES
from ..families.released import is_released
from ..files.atomic import atomic_write
from ..files.format import Header, TensorInfo, read_header, write_tensors
from ..files.stream import LazyTensors, TensorSource
from .fingerprint import content_digest
from .layers import Expert, FusedLowRank, Layer, LowRank
from .metadata import ExpertMetadata
from .tensor_names import from_tensors, keys_by_layer, layer_name, to_tensors

_DTYPES = ("F32", "F16", "BF16")
_SAVED = (torch.float32, torch.float16, torch.bfloat16)
_BOOKKEEPING = ("dcm.layers", "dcm.parameters", "dcm.digest")


@dataclass(frozen=True)
class Inspection:
    """What can be told without reading the tensors: metadata, dtype and shape by key, and bytes on disk."""

    metadata: ExpertMetadata
    tensors: dict[str, TensorInfo]
    size: int


def save_expert(path: str | os.PathLike, expert: Expert, compact: bool = False) -> None:
    """Write an expert in one step: a former file at ``path`` is replaced whole or stays as it was.

    ``compact`` leaves out the zeros that other loaders need around the pairs of fused layers: a third of the
    size for HunyuanVideo, and a file that only DCM reads.
    Raises ExpertFileError for an expert that no loader would take (no layer, NaN or Inf, an unsuitable
    dtype), and OSError with the remedy when the folder is not writable or the disk is full.
    """
    tensors = to_tensors(expert, compact)
    if not tensors:
        raise ExpertFileError("the expert changes no layer: nothing to save")
    wrong = [f"{key} ({tensor.dtype})" for key, tensor in tensors.items() if tensor.dtype not in _SAVED]
    if wrong:
        raise ExpertFileError(
            f"only float32, float16 and bfloat16 tensors can be saved, not {shortened(wrong)}"
        )
    _refuse_non_finite(tensors)
    header = header_of(expert)
    header["dcm.digest"] = content_digest(header, tensors)
    with atomic_write(path) as file:
        write_tensors(file, tensors, header)


def header_of(expert: Expert) -> dict[str, str]:
    """The metadata of an expert's file, but for the digest of its content."""
    counts = {
        "dcm.layers": str(len(expert.layers) + len(expert.parameters)),
        "dcm.parameters": ",".join(expert.parameters),
    }
    return expert.metadata.to_header() | counts


def load_expert(path: str | os.PathLike, verify: bool = True) -> Expert:
    """Read an expert file into memory of its own (the file may be replaced afterwards, on Windows too).

    ``verify=False`` skips the digest, for a file that was changed on purpose and is to be saved again.
    Raises ExpertFileError for whatever is not one whole expert of a known format, and FileNotFoundError.
    """
    path = Path(path)
    header, metadata = _read_header(path)
    wrong = [f"{key} ({info.dtype})" for key, info in header.tensors.items() if info.dtype not in _DTYPES]
    if wrong:
        raise ExpertFileError(f"{path} has tensors that are no {', '.join(_DTYPES)}: {shortened(wrong)}")
    with TensorSource([path]) as source:
        tensors = LazyTensors(header.tensors, source.read)
        try:
            expert = _assemble(header, metadata, tensors)
            _refuse_non_finite(tensors)
        except ExpertFileError as error:
            raise ExpertFileError(f"{path}: {error}") from error
        if verify and header.metadata.get("dcm.digest") != content_digest(header.metadata, tensors):
            raise ExpertFileError(
                f"{path}: the content does not match dcm.digest, so the file was damaged or changed after it "
                "was written. Download or export it again."
            )
    return expert


def inspect(path: str | os.PathLike) -> Inspection:
    """Metadata and tensor list of an expert file, without reading its tensors. Raises as ``load_expert``."""
    header, metadata = _read_header(Path(path))
    return Inspection(metadata, header.tensors, os.path.getsize(path))


def _read_header(path: Path) -> tuple[Header, ExpertMetadata]:
    header = read_header(path)
    if is_released(header.tensors):
        raise ExpertFileError(
            f"{path} is a DCM bundle as released, a backbone and its detail expert in one file. Put it into "
            "models/diffusion_models and open it with DCM Load Backbone."
        )
    if not any(key.startswith("dcm.") for key in header.metadata):
        raise ExpertFileError(
            f"{path} has no dcm.* metadata: it is an ordinary LoRA or model file. Load it with a LoRA loader "
            "(LoraLoaderModelOnly) or a model loader."
        )
    known = {key: value for key, value in header.metadata.items() if key not in _BOOKKEEPING}
    try:
        return header, ExpertMetadata.from_header(known)
    except ExpertFileError as error:
        raise ExpertFileError(f"{path}: {error}") from error


def _assemble(header: Header, metadata: ExpertMetadata, tensors: Mapping[str, Tensor]) -> Expert:
    """The expert, read layer by layer: its fused layers take several times the space in the file."""
    names = [name for name in header.metadata.get("dcm.parameters", "").split(",") if name]
    # All names and shapes first, so that a message can name everything that is wrong. Numbers are read right away.
    outline = {
        key: tensors[key] if math.prod(info.shape) == 1 else torch.empty(info.shape, device="meta")
        for key, info in header.tensors.items()
    }
    layers, parameters = from_tensors(outline, names)
    counted, promised = len(layers) + len(parameters), header.metadata.get("dcm.layers", "")
    if str(counted) != promised:
        lost = _gaps(list(layers) + list(parameters))
        hint = f" Probably missing: {shortened(lost)}." if lost else ""
        raise ExpertFileError(
            f"dcm.layers promises {promised or 'no number of'} layers, the file has {counted}.{hint} "
            "Download or export it again."
        )
    for own in keys_by_layer(header.tensors).values():
        part = {key: tensors[key] for key in own}
        whole, bare = from_tensors(part, [name for name in names if layer_name(own[0]) == name])
        layers |= {name: _taken_apart(name, layer, metadata.family) for name, layer in whole.items()}
        parameters |= bare
    return Expert(metadata, layers, parameters)


def _taken_apart(name: str, layer: Layer, family: str) -> Layer:
    """A block-diagonal pair over a fused layer of the family as the pairs it is made of."""
    known = FAMILIES.get(family)
    parts = known.keymap.projections(name) if known and isinstance(layer, LowRank) else 1
    return (FusedLowRank.from_block(layer, parts) if parts > 1 else None) or layer


def _gaps(names: list[str]) -> list[str]:
    """Names that a series like ``blocks.<i>.self_attn.q`` lacks for a block that other series have."""
    series: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        # A number at the end counts modules of a small sequence (time_embedding.0), not blocks.
        if number is not None and number + 1 < len(parts):
            series[".".join(parts[:number]), ".".join(parts[number + 1 :])].add(int(parts[number]))
    blocks: dict[str, set[int]] = defaultdict(set)
    for (stem, _), numbers in series.items():
        blocks[stem] |= numbers
    return [f"{stem}.{i}.{rest}" for (stem, rest), has in series.items() for i in sorted(blocks[stem] - has)]


def all_finite(tensor: Tensor) -> bool:
    """Is no element NaN or infinite?"""
    # Both pass through minimum and maximum, which take a thirtieth of the time of asking every element.
    return not tensor.numel() or all(math.isfinite(limit) for limit in torch.aminmax(tensor))


def _refuse_non_finite(tensors: dict[str, Tensor]) -> None:
    wrong = [key for key, tensor in tensors.items() if not all_finite(tensor)]
    if wrong:
        raise ExpertFileError(
            f"NaN or Inf in {shortened(wrong)}: training diverged or a cast overflowed. Use an earlier "
            "checkpoint, or export in float32 or bfloat16."
        )
