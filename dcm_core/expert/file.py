"""The self-describing expert file: one safetensors file that holds an expert and says what it is.

The tensors are named as in ComfyUI LoRA files (``tensor_names``). Where the backbone has q, k and v in one layer, their
pairs are one block-diagonal pair in the file, and are taken apart again on reading. The metadata is
``ExpertMetadata`` plus

* ``dcm.layers``      how many layers and bare Parameters the file changes,
* ``dcm.parameters``  which names are bare Parameters, comma-separated,
* ``dcm.digest``      SHA-256 of the metadata and tensors, so that no damage goes unnoticed.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ExpertFileError, shortened
from ..families.presets import FAMILIES
from ..families.released import is_released
from ..files.atomic import atomic_write
from ..files.format import TensorInfo, write_tensors
from ..files.stream import TensorDigest, TensorSource
from .layers import Expert, Layer, LowRank, pairs_of
from .metadata import ExpertMetadata
from .other_files import semantic_backbone, speed_lora_of, what_it_is
from .tensor_names import Role, by_layer, is_expert, layer_from, refuse_incomplete, to_tensors

_DTYPES = ("F32", "F16", "BF16")
_SAVED = (torch.float32, torch.float16, torch.bfloat16)
_BOOKKEEPING = ("dcm.layers", "dcm.parameters", "dcm.digest")
_SAME = 1e-6  # a file holds alpha in float32


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
        raise ExpertFileError(f"only float32, float16 and bfloat16 tensors can be saved, not {shortened(wrong)}")
    refuse_non_finite([key for key, tensor in tensors.items() if not all_finite(tensor)])
    header = header_of(expert)
    header["dcm.digest"] = content_digest(header, tensors)
    with atomic_write(path) as file:
        write_tensors(file, tensors, header)


def header_of(expert: Expert) -> dict[str, str]:
    """The metadata of an expert's file, but for the digest of its content.

    Raises ExpertFileError where it would contradict the tensors.
    """
    _refuse_contradictions(expert.metadata, expert.layers)
    counts = {
        "dcm.layers": str(len(expert.layers) + len(expert.parameters)),
        "dcm.parameters": ",".join(expert.parameters),
    }
    return expert.metadata.to_header() | counts


def load_expert(path: str | os.PathLike) -> Expert:
    """Read an expert file into memory of its own (the file may be replaced afterwards, on Windows too).

    Raises ExpertFileError for whatever is not one whole expert of a known format, and FileNotFoundError.
    """
    path = Path(path)
    source, metadata = _open(path)
    if wrong := wrong_dtypes(source.infos):
        raise ExpertFileError(f"{path} {wrong}")
    try:
        with source:
            expert, digest = _read(source, metadata)
    except ExpertFileError as error:
        raise ExpertFileError(f"{path}: {error}") from error
    if source.metadata.get("dcm.digest") != digest:
        raise ExpertFileError(
            f"{path}: the content does not match dcm.digest, so the file was damaged or changed after it "
            "was written. Download or export it again."
        )
    return expert


def metadata_of(path: str | os.PathLike) -> ExpertMetadata:
    """The metadata of an expert file, without reading its tensors. Raises as ``load_expert``."""
    return _open(Path(path))[1]


def wrong_dtypes(infos: Mapping[str, TensorInfo]) -> str:
    """What to say of tensors that no expert can have, or nothing."""
    wrong = [f"{key} ({info.dtype})" for key, info in infos.items() if info.dtype not in _DTYPES]
    if not wrong:
        return ""
    return f"has tensors that are no {', '.join(_DTYPES)}: {shortened(wrong)}. Export it in bf16 or fp32."


def begin_content_digest(header: Mapping[str, str]) -> TensorDigest:
    """``dcm.digest`` of a file with this metadata, to which the tensors are still to be added, sorted by key."""
    meant = {key: value for key, value in header.items() if key.startswith("dcm.") and key != "dcm.digest"}
    return TensorDigest(json.dumps(sorted(meant.items())).encode())


def content_digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """``dcm.digest`` of a file: over its ``dcm.*`` metadata and every tensor's key, dtype, shape and bytes.

    ``tensors`` are asked for one after the other, so they may be read from a file on the way.
    """
    digest = begin_content_digest(header)
    digest.add_all(tensors)
    return digest.text()


def contradictions(metadata: ExpertMetadata, layers: Mapping[str, Layer]) -> list[str]:
    """What of the layers' low-rank pairs is not as the header says, one piece of a sentence each."""
    wrong = []
    for name, (pair, *others) in pairs_of(layers).items():
        rank, alpha, count = len(pair.down), pair.alpha, 1 + len(others)
        # Pairs of fused layers may be meant each, or as the one pair that other loaders take them for.
        meant = [(rank, alpha), (rank * count, alpha * count)]
        if not any(_is(r, metadata.rank) and _is(a, metadata.alpha) for r, a in meant):
            told = [f"{what} {value:g}" for what, value in _said(metadata)]
            wrong.append(f"{name} has rank {rank} and alpha {alpha:g}, the header says {' and '.join(told)}")
    return wrong


def _open(path: Path) -> tuple[TensorSource, ExpertMetadata]:
    source = TensorSource([path])
    if is_released(source.infos):
        raise ExpertFileError(
            f"{path} is a DCM bundle as released, a backbone and its detail expert in one file. Put it into "
            "models/diffusion_models and open it with DCM Load Backbone."
        )
    if not any([key.startswith("dcm.") for key in source.metadata]):
        speed = speed_lora_of(path)
        what = what_it_is(source.infos, source.metadata, speed.title if speed else "")
        raise ExpertFileError(f"{path} is no expert file, since it has no dcm.* metadata. It looks like {what}")
    if not is_expert(source.infos) and (what := semantic_backbone(source.infos, source.metadata)):
        raise ExpertFileError(f"{path} is {what}")
    known = {key: value for key, value in source.metadata.items() if key not in _BOOKKEEPING}
    try:
        return source, ExpertMetadata.from_header(known)
    except ExpertFileError as error:
        raise ExpertFileError(f"{path}: {error}") from error


def _read(source: TensorSource, metadata: ExpertMetadata) -> tuple[Expert, str]:
    """The expert, and the digest of the file's content. Every tensor is read once."""
    named = [name for name in source.metadata.get("dcm.parameters", "").split(",") if name]
    keys = by_layer(source.infos)
    # All names and kinds first, so that one message tells all that is wrong.
    outline = {key: torch.empty(info.shape, device="meta") for key, info in source.infos.items()}
    refuse_incomplete({name: {role: outline[key] for role, key in own.items()} for name, own in keys.items()}, named)
    _refuse_lost_alphas(metadata, keys)
    layers: dict[str, Layer] = {}
    parameters: dict[str, Tensor] = {}
    family = FAMILIES.get(metadata.family)
    fusing = family.keymap if family and family.keymap.fuses else None
    places = {key: (name, role) for name, own in keys.items() for role, key in own.items()}
    parts: dict[str, dict[Role, Tensor]] = {name: {} for name in keys}
    digest, wrong = begin_content_digest(source.metadata), []
    for key in sorted(places):
        tensor = source.read(key, digest)
        if not all_finite(tensor):
            wrong.append(key)
        name, role = places[key]
        parts[name][role] = tensor
        if len(parts[name]) < len(keys[name]):
            continue
        # Made as soon as it is whole: in the file, a fused layer takes several times its space.
        own = parts.pop(name)
        if name in named:
            parameters[name] = tensor
        else:
            layer = layer_from(name, own)
            layers[name] = layer.split(fusing.projections(name)) if fusing else layer
    _refuse_fewer(source.metadata, [*layers, *parameters])
    refuse_non_finite(wrong)
    # As the file has them, whatever the order they became whole in.
    layers = {name: layers[name] for name in keys if name in layers}
    parameters = {name: parameters[name] for name in keys if name in parameters}
    _refuse_contradictions(metadata, layers)
    return Expert(metadata, layers, parameters), digest.text()


def _refuse_fewer(header: Mapping[str, str], names: list[str]) -> None:
    promised = header.get("dcm.layers", "")
    if str(len(names)) != promised:
        lost = _gaps(names)
        hint = f" Probably missing: {shortened(lost)}." if lost else ""
        raise ExpertFileError(
            f"dcm.layers promises {promised or 'no number of'} layers, the file has {len(names)}.{hint} "
            "Download or export it again."
        )


def _refuse_lost_alphas(metadata: ExpertMetadata, keys: Mapping[str, Mapping[Role, str]]) -> None:
    """Without its alpha a pair would act at a scale of 1."""
    alpha = LowRank, "alpha"
    lost = [name for name, own in keys.items() if (LowRank, "down") in own and alpha not in own]
    if metadata.alpha is not None and lost:
        raise ExpertFileError(
            f"dcm.alpha is {metadata.alpha:g}, but low-rank pairs have no .alpha: {shortened(lost)}. Download or "
            "export the file again."
        )


def _refuse_contradictions(metadata: ExpertMetadata, layers: Mapping[str, Layer]) -> None:
    """Raise ExpertFileError that names the layers whose rank or alpha is not the header's."""
    if wrong := contradictions(metadata, layers):
        raise ExpertFileError(
            f"the header contradicts the tensors: {shortened(wrong, 4)}. Export the expert again, or correct dcm.rank "
            "and dcm.alpha."
        )


def _said(metadata: ExpertMetadata) -> list[tuple[str, float]]:
    said = ("rank", metadata.rank), ("alpha", metadata.alpha)
    return [(what, value) for what, value in said if value is not None]


def _is(value: float, promised: float | None) -> bool:
    return promised is None or math.isclose(value, promised, rel_tol=_SAME)


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
    return not tensor.numel() or all(map(math.isfinite, torch.aminmax(tensor)))


def refuse_non_finite(keys: list[str]) -> None:
    """Raises ExpertFileError naming tensors that hold NaN or Inf, if there are any."""
    if keys:
        raise ExpertFileError(
            f"NaN or Inf in {shortened(keys)}: training diverged or a cast overflowed. Use an earlier "
            "checkpoint, or export in float32 or bfloat16."
        )
