"""Reading a safetensors header strictly, and writing a file whose bytes depend on its content alone.

The layout is public: 8 bytes little-endian header length, that many bytes of JSON, then the tensors. The
library reads and writes it too, but takes the last of two equal keys without a word, says little about a
wrong or cut file, and orders the metadata at random, so that two exports of one expert would differ.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import ExpertFileError

_MAX_HEADER = 100_000_000
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}  # fmt: skip
_WRITTEN = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}
_PICKLE = "pickles can run code and are not read; export it as safetensors"
_OTHERS = (
    (b"PK\x03\x04", "a zip archive (a PyTorch .pt/.ckpt file, perhaps)", _PICKLE),
    (b"\x80", "a Python pickle (.pt/.ckpt)", _PICKLE),
    (b"GGUF", "a GGUF file", "experts are safetensors files; load a GGUF backbone with ComfyUI-GGUF"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the real file with 'git lfs pull'"),
    (b"<", "a web page", "the download went wrong: download the file again, from its 'download' link"),
)


@dataclass(frozen=True)
class TensorInfo:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """``spans`` are the first byte of each tensor in the file and the one after its last."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_header(path: str | os.PathLike) -> Header:
    """The metadata and the dtype and shape of each tensor, without reading the tensors.

    Raises ExpertFileError for anything that is not one whole, unambiguous safetensors file,
    FileNotFoundError for a missing one, and whatever OSError the system gives for one it may not read.
    """
    path = Path(path)
    if path.is_dir():
        raise ExpertFileError(f"{path} is a folder: choose the .safetensors file in it")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(64)
        _reject_other_formats(path, start)
        if len(start) < 8:
            raise _broken(path, f"it is only {size} bytes long")
        length = int.from_bytes(start[:8], "little")
        if length > _MAX_HEADER:
            raise _broken(path, "it does not begin like a safetensors file")
        if 8 + length > size:
            raise _broken(path, f"it ends inside its header ({size} bytes, the header alone needs {8 + length})")
        file.seek(8)
        text = file.read(length)
    entries = _parse(path, text)
    no_strings = "its metadata is not a table of strings"
    metadata = _table(path, entries.pop("__metadata__", _Object()), no_strings)
    if set(map(type, metadata.values())) - {str}:
        raise _broken(path, no_strings)
    tensors, spans = {}, {}
    for name, entry in entries.items():
        tensors[name], start, stop = _tensor(path, name, entry)
        spans[name] = (8 + length + start, 8 + length + stop)
    ordered = sorted(spans.values())
    starts, stops = zip(*ordered, strict=True) if ordered else ((), ())
    end = max(stops, default=8 + length)
    if end > size:
        raise _broken(path, f"it is cut off ({size} bytes of {end})")
    if end < size:
        raise _broken(path, f"{size - end} bytes follow its last tensor")
    if starts and starts != (8 + length, *stops[:-1]):
        raise _broken(path, "its tensors overlap or leave gaps")
    return Header(metadata, tensors, spans)


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a whole safetensors file; equal content gives equal bytes. float32, float16 and bfloat16 only."""
    infos = {name: TensorInfo(_WRITTEN[tensor.dtype], tuple(tensor.shape)) for name, tensor in sorted(tensors.items())}
    header, spans = plan_header(infos, metadata)
    file.write(header)
    for name in spans:
        file.write(tensor_bytes(tensors[name]))


def plan_header(
    infos: Mapping[str, TensorInfo], metadata: Mapping[str, str], room: int = 0
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The first bytes of a file with these tensors, and where in the file each of them goes, in file order.

    ``room`` leaves so many bytes for metadata that becomes known later: a plan with the full metadata and the
    room that is left over puts every tensor at the same place.
    """
    # Wide elements first, so that every tensor is aligned to its element size.
    ordered = sorted(infos, key=lambda name: -element_bytes(infos[name].dtype))
    header: dict[str, dict] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in ordered:
        start, end = end, end + tensor_size(infos[name])
        entry = {"dtype": infos[name].dtype, "shape": list(infos[name].shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (room + -(len(text) + room) % 8)
    if len(text) > _MAX_HEADER:
        raise ExpertFileError(f"the header would have {len(text)} bytes, and no program reads more than {_MAX_HEADER}")
    first = 8 + len(text)
    spans = {name: tuple(first + offset for offset in header[name]["data_offsets"]) for name in ordered}
    return len(text).to_bytes(8, "little") + text, spans


def element_bytes(dtype: str) -> int:
    """Bytes of one element by the name safetensors has for its dtype. Raises ExpertFileError for an unknown one."""
    if dtype not in _BYTES:
        raise ExpertFileError(f"tensors of dtype {dtype} are not known here: known are {', '.join(_BYTES)}")
    return _BYTES[dtype]


def tensor_size(info: TensorInfo) -> int:
    """Bytes of a tensor in a file."""
    return math.prod(info.shape) * element_bytes(info.dtype)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor in row order, without a copy where it is contiguous on the CPU."""
    # A 0-dimensional tensor has no byte view, hence the flattening.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _reject_other_formats(path: Path, start: bytes) -> None:
    # A header length may begin with any of these bytes by chance, so a JSON brace in its place decides.
    if start[8:9] == b"{":
        return
    for magic, what, remedy in _OTHERS:
        if start.lstrip().startswith(magic):
            raise ExpertFileError(f"{path} is {what}, not a safetensors file: {remedy}")


class _Object(list):
    """A JSON object as its pairs of name and value: in a dict, the last of two equal names would win."""


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its header is not readable") from error
    return _table(path, entries, "its header is not a table")


def _table(path: Path, pairs: object, otherwise: str) -> dict[str, Any]:
    """The JSON object as a dict. Raises ExpertFileError for one that names a key twice, and for what is none."""
    if not isinstance(pairs, _Object):
        raise _broken(path, otherwise)
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = sorted({name for name in names if names.count(name) > 1})
        raise ExpertFileError(f"{path} names a key twice: {', '.join(doubled)}. Export the expert again.")
    return table


def _tensor(path: Path, name: str, entry: object) -> tuple[TensorInfo, int, int]:
    unreadable = f"the entry of {name} is not readable"
    table = _table(path, entry, unreadable)
    try:
        dtype, shape, (start, stop) = table["dtype"], table["shape"], table["data_offsets"]
        numbers = (*shape, start, stop)
        whole = set(map(type, numbers)) == {int} and min(numbers) >= 0
        count = math.prod(shape)
    except (TypeError, KeyError, ValueError) as error:
        raise _broken(path, unreadable) from error
    if not whole or not isinstance(dtype, str):
        raise _broken(path, unreadable)
    if dtype in _BYTES and count * _BYTES[dtype] != stop - start:
        raise _broken(path, f"the entry of {name} contradicts itself")
    return TensorInfo(dtype, tuple(shape)), start, stop


def _broken(path: Path, why: str) -> ExpertFileError:
    return ExpertFileError(f"{path} is not a whole safetensors file: {why}. Download or export it again.")
