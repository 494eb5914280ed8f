"""The semantic expert: a whole backbone, its difference to the backbone it was made from, or a low-rank one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..backbone.file import BackboneFile
from ..errors import ExpertFileError, shortened
from ..expert.layers import Difference, Expert, Layer, LowRank, frobenius
from ..expert.merge import layers_of
from ..expert.metadata import ExpertMetadata
from .backbone import DTYPES, cast, convert_backbone
from .expert_stream import stream_expert
from .low_rank import Loss, decompose, smaller_than_full

ERRORS = "dcm.low_rank_errors"


def export_whole(backbone: BackboneFile, path: str | os.PathLike, dtype: str | None = None) -> None:
    """Write a semantic expert as a whole ComfyUI backbone that says what it is.

    Raises ValueError for a backbone that cannot be converted, and OSError with the remedy.
    """
    metadata = replace(semantic_metadata(backbone), fingerprint=backbone.fingerprint)
    convert_backbone(backbone, path, "comfy", dtype, metadata.to_header())


def export_change(
    semantic: BackboneFile,
    base: BackboneFile,
    path: str | os.PathLike,
    rank: int | None = None,
    dtype: str | None = None,
) -> dict[str, Loss]:
    """Write what makes ``base`` into ``semantic`` as an expert file; returns what is lost of each layer.

    Without ``rank`` these are full differences, with it low-rank pairs wherever they are the smaller form. Losses are
    relative Frobenius norms; those of the low-rank layers are kept in the file's metadata. ``dtype``
    is that of the tensors, by default ``dtype_of_change``. Raises ValueError for backbones that do not go together,
    and OSError with the remedy.
    """
    _refuse_unlike(semantic, base)
    dtype = dtype or dtype_of_change(semantic)
    metadata = replace(
        semantic_metadata(semantic),
        base_fingerprint=base.fingerprint,
        fingerprint=semantic.fingerprint,
        rank=rank,
        alpha=rank,
        complete=True,
        title="",
    )
    ours, theirs = semantic.recipes("comfy"), base.recipes("comfy")

    def difference(name: str) -> Tensor:
        # In float64, for weights that are stored so: their difference may be smaller than the rounding to float32.
        one, other = semantic.build(ours[name]), base.build(theirs[name])
        wide = torch.float64 if torch.float64 in (one.dtype, other.dtype) else torch.float32
        return one.to(wide).sub(other.to(wide)).float()

    planned = _planned(metadata, semantic.shapes, rank, DTYPES[dtype][1])
    losses: dict[str, Loss] = {}
    # Room for a name and a number for each layer.
    with stream_expert(path, planned, room=sum(len(name) + 32 for name in planned.layers)) as writer:
        for name, layer in planned.layers.items():
            made, losses[name] = _made(name, layer, difference, dtype)
            writer.put_layer(name, made)
        for name in planned.parameters:
            tensor = difference(name)
            losses[name] = Loss(0.0, frobenius(tensor))
            writer.put_parameter(name, cast(name, tensor, dtype))
        if rank:
            errors = {name: float(f"{loss.relative:.4g}") for name, loss in losses.items() if loss.rest}
            writer.metadata[ERRORS] = json.dumps(errors)
    return losses


def dtype_of_change(semantic: BackboneFile) -> str:
    """The precision that holds a difference of these weights: their own, bf16 for those of one byte.

    That of float64 is written as fp32, the most that an expert file holds.
    """
    stored = {"F64": "fp32"} | {stored: name for name, (stored, _) in DTYPES.items()}
    return stored.get(semantic.layout.dtype, "bf16")


def semantic_metadata(backbone: BackboneFile) -> ExpertMetadata:
    """What a backbone that is a semantic expert says of itself; where its file says nothing, its family's preset."""
    header, layout = backbone.source.metadata, backbone.layout
    if header.get("dcm.expert") == "semantic":
        return ExpertMetadata.from_header({key: value for key, value in header.items() if key != "format"})
    released = layout.kind == "released"
    return ExpertMetadata(
        expert="semantic",
        family=layout.family.name,
        backbone=layout.variant,
        schedule=layout.family.bundle_schedule if released else layout.family.schedule,
        guidance=layout.family.bundle_guidance,
        trained_with="the released DCM bundle" if released else "",
    )


def _planned(
    metadata: ExpertMetadata, shapes: Mapping[str, tuple[int, ...]], rank: int | None, dtype: torch.dtype
) -> Expert:
    """The expert without its numbers: tensors on the meta device."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    low_rank: dict[str, Layer] = {
        name.removesuffix(".weight"): LowRank(empty(rank, shape[1]), empty(shape[0], rank), rank)
        for name, shape in shapes.items()
        if rank and name.endswith(".weight") and smaller_than_full(rank, shape)
    }
    weights, biases = ({f"{module}.{key}" for module in low_rank} for key in ("weight", "bias"))
    full = {name: empty(*shape) for name, shape in shapes.items() if name not in weights | biases}
    layers, parameters = layers_of(full)
    # A layer of a file is one pair or one difference, so these biases are changed by their own names.
    parameters |= {name: empty(*shapes[name]) for name in shapes if name in biases}
    return Expert(metadata, low_rank | layers, parameters)


def _made(name: str, planned: Layer, difference: Callable[[str], Tensor], dtype: str) -> tuple[Layer, Loss]:
    """A layer of the expert with its numbers, and what it leaves out."""
    if planned.pairs:
        ((_, pair),) = planned.pairs
        down, up, loss = decompose(difference(f"{name}.weight"), pair.rank, pair.up.dtype)
        return LowRank(down, up, pair.alpha), loss
    parts = {key: difference(f"{name}.{key}") for key in planned.shapes}
    loss = Loss(0.0, math.hypot(*map(frobenius, parts.values())))
    return Difference(**{key: cast(f"{name}.{key}", tensor, dtype) for key, tensor in parts.items()}), loss


def _refuse_unlike(semantic: BackboneFile, base: BackboneFile) -> None:
    for backbone in (semantic, base):
        if backbone.layout.scaled:
            names = ", ".join(map(str, backbone.source.paths))
            raise ExpertFileError(f"{names}: a difference of quantised weights is noise: take the bf16 file")
    if semantic.layout.family != base.layout.family:
        raise ExpertFileError(f"{semantic.layout.describe()} and {base.layout.describe()} are of different families")
    ours, theirs = semantic.shapes, base.shapes
    if ours != theirs:
        unlike = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise ExpertFileError(
            f"{semantic.layout.variant} and {base.layout.variant} differ in {len(unlike)} tensors, so neither was made "
            f"from the other: {shortened(unlike, 4)}"
        )
