"""What a file is: an expert, a backbone, or a released bundle of both."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..backbone.bundle import expert_from_bundle
from ..backbone.file import BackboneFile
from ..errors import ExpertFileError, LayoutError, shortened
from ..expert.file import content_digest, contradictions, metadata_of, wrong_dtypes
from ..expert.layers import Layer, frobenius
from ..expert.metadata import ExpertMetadata
from ..expert.other_files import is_checkpoint, is_lora
from ..expert.tensor_names import by_layer, from_tensors, is_expert
from ..families.presets import FAMILIES
from ..families.released import is_released
from ..files.shards import open_weights
from ..files.stream import LazyTensors, TensorSource
from ..schedule.experts import ExpertSchedule, steps_text
from .progress import size_text
from .report_speed import dtypes_text, lora_report, passport_report, speed_text
from .semantic import ERRORS

_STEPS = (4, 6, 8)


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """Everything there is to say about a file, as JSON has it; read in little memory.

    ``wrong`` says why a file that can be told about cannot be used: it is damaged, not whole, or of a wrong dtype.
    Raises ValueError for what is neither an expert, a LoRA nor a backbone, saying what it looks like, and OSError as
    the system gives it.
    """
    source = open_weights(path)
    if is_expert(source.infos) and "dcm.expert" in source.metadata:
        return _expert(source)
    if is_lora(source.infos) and not is_released(source.infos) and not is_checkpoint(source.infos):
        return lora_report(source)
    with BackboneFile.open(path) as backbone:
        return _backbone(backbone)


def _expert(source: TensorSource) -> dict[str, Any]:
    (path,) = source.paths
    metadata = metadata_of(path)
    with source:
        digest = content_digest(source.metadata, LazyTensors(source.infos, source.read))
        changes, contradicting = _changes_in(source, metadata)
    intact = source.metadata.get("dcm.digest") == digest
    damage = "" if intact else "the content is not what was written. Download or export the file again."
    infinite = [change["layer"] for change in changes if not math.isfinite(change.get("norm", 0.0))]
    return {
        "file": str(path),
        "kind": f"{metadata.expert} expert",
        "bytes": os.path.getsize(path),
        "dtype": dtypes_text(source),
        "intact": intact,
        "wrong": (
            damage
            or wrong_dtypes(source.infos)
            or (infinite and f"NaN or Inf in {shortened(infinite)}. Take an earlier checkpoint.")
            or _miscounted(source, changes)
            or (contradicting and f"the header contradicts the tensors: {shortened(contradicting, 4)}.")
            or ""
        ),
        **passport_report(metadata.passport),
        "metadata": dict(sorted(source.metadata.items())),
        **_about(metadata),
        "layers": changes,
    }


def _backbone(backbone: BackboneFile) -> dict[str, Any]:
    source, layout = backbone.source, backbone.layout
    said = {
        "file": ", ".join(map(str, source.paths)),
        "kind": "released bundle" if layout.kind == "released" else "backbone",
        "what": backbone.describe(),
        "bytes": sum(os.path.getsize(path) for path in source.paths),
        "family": layout.family.name,
        "layout": layout.kind,
        "prefix": layout.prefix,
        "variant": layout.variant,
        "parameters": layout.parameters,
        "dtype": layout.dtype,
        "scaled": layout.scaled,
        "quantised": backbone.formats,
        "tensors": len(source.infos),
        "metadata": dict(sorted(source.metadata.items())),
    }
    if layout.doubt:
        said["doubt"] = layout.doubt
    # Made in full, so that a tensor that fits nowhere is told here and not in the middle of other work.
    backbone.recipes("comfy")
    if layout.kind == "released":
        try:
            expert = expert_from_bundle(backbone)
        except (ExpertFileError, LayoutError) as error:
            return said | {"wrong": str(error).removeprefix(f"{source.paths[0]}: ")}
        said |= _about(expert.metadata)
        said["layers"] = [*_changes(expert.layers, expert.parameters)]
    elif source.metadata.get("dcm.expert") == "semantic":
        said |= {"kind": "semantic expert as a whole backbone"}
        said |= _about(ExpertMetadata.from_header(source.metadata))
    return said


def _about(metadata: ExpertMetadata) -> dict[str, Any]:
    return {
        "expert": metadata.expert,
        "family": metadata.family,
        "backbone": metadata.backbone,
        "guidance": metadata.guidance,
        "embedded_guidance": metadata.embedded_guidance,
        "rank": metadata.rank,
        "alpha": metadata.alpha,
        "trained_steps": metadata.trained_steps,
        "schedule": _schedule(metadata.schedule, metadata.trained_steps),
    }


def _schedule(schedule: ExpertSchedule, trained_steps: int | None) -> dict[str, Any]:
    runs = {steps: schedule.sigmas(steps) for steps in (_STEPS if trained_steps is None else (trained_steps,))}
    return {
        "rule": schedule.switch.rule,
        "prediction": schedule.grid.prediction,
        "shift": schedule.grid.shift,
        "points": schedule.grid.points,
        "kappa_index": schedule.kappa_index,
        "kappa_sigma": schedule.kappa_sigma,
        "switch_sigma": schedule.switch_sigma,
        "sigmas": {str(steps): [round(sigma, 6) for sigma in sigmas.tolist()] for steps, sigmas in runs.items()},
        "steps": {str(steps): schedule.describe(sigmas) for steps, sigmas in runs.items()},
    }


def _changes_in(source: TensorSource, metadata: ExpertMetadata) -> tuple[list[dict[str, Any]], list[str]]:
    """The layers of an expert file, read one at a time, and what of them contradicts the header."""
    bare = set(source.metadata.get("dcm.parameters", "").split(","))
    family = FAMILIES.get(metadata.family)
    changes, wrong = [], []
    for name, own in by_layer(source.infos).items():
        tensors = {role: source.read(key) for role, key in own.items()}
        layers, parameters = from_tensors({name: tensors}, bare & {name})
        if family and family.keymap.fuses:
            layers = {each: layer.split(family.keymap.projections(each)) for each, layer in layers.items()}
        changes += _changes(layers, parameters)
        wrong += contradictions(metadata, layers)
    return changes, wrong


def _miscounted(source: TensorSource, changes: list[dict[str, Any]]) -> str:
    promised = source.metadata.get("dcm.layers", "no number of")
    return "" if promised == str(len(changes)) else f"dcm.layers promises {promised} layers, it has {len(changes)}."


def _changes(layers: Mapping[str, Layer], parameters: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    for name, layer in layers.items():
        parts = len(layer.pairs)
        change: dict[str, Any] = {
            "layer": name,
            "change": f"{parts} {layer.title}" if parts > 1 else layer.title,
        }
        if parts:
            _, pair = layer.pairs[0]
            change |= {"rank": pair.rank, "scale": pair.scale}
        norm = layer.norm()
        yield change if norm is None else change | {"norm": _rounded(norm)}
    for name, difference in parameters.items():
        yield {"layer": name, "change": "parameter", "norm": _rounded(frobenius(difference))}


def _rounded(norm: float) -> float:
    return float(f"{norm:.6g}")


def as_text(said: dict[str, Any]) -> str:
    """What ``inspect`` found, for people."""
    lines = [f"{said['file']}", f"  {said['kind']}, {size_text(said['bytes'])}, {said['dtype']}"]
    if "what" in said:
        lines.append(
            f"  {said['what']}; {said['tensors']} tensors"
            + (f", names begin with {said['prefix']!r}" if said["prefix"] else "")
        )
    if "expert" in said:
        rank = f", rank {said['rank']}" if said["rank"] else ""
        rank += f", alpha {said['alpha']:g}" if said["alpha"] is not None else ""
        told = said["embedded_guidance"]
        guidance = f"guidance {said['guidance']:g}" + ("" if told is None else f", embedded guidance {told:g}")
        family = "" if said["family"] == said["backbone"] else f" ({said['family']})"
        lines.append(f"  {said['expert']} expert for {said['backbone']}{family}, {guidance}{rank}")
        if steps := said["trained_steps"]:
            lines.append(f"  trained for the noise levels of {steps_text(steps)} and no others")
        lines += _schedule_text(said["schedule"])
    lines += speed_text(said)
    if said.get("wrong"):
        lines.append(f"  {'NOT USABLE' if said.get('intact', True) else 'DAMAGED'}: {said['wrong']}")
    if "doubt" in said:
        lines.append(f"  DOUBTFUL: {said['doubt']}")
    for key, value in said["metadata"].items():
        if key != ERRORS:
            lines.append(f"  {key} = {value if len(value) <= 100 else value[:97] + '...'}")
    return "\n".join([*lines, *_layers_text(said)])


def _schedule_text(schedule: dict[str, Any]) -> list[str]:
    lines = [
        f"  kappa: grid index {schedule['kappa_index']} of {schedule['points']}, sigma {schedule['kappa_sigma']:.6f}; "
        f"detail expert from sigma {schedule['switch_sigma']:.6f} down (rule {schedule['rule']}), "
        f"shift {schedule['shift']:g}, prediction {schedule['prediction']}"
    ]
    return lines + [f"  {steps} steps: {text}" for steps, text in schedule["steps"].items()]


def _layers_text(said: dict[str, Any]) -> list[str]:
    layers = said.get("layers", [])
    if not layers:
        return []
    errors = json.loads(said["metadata"].get(ERRORS, "{}"))
    width = max(len(layer["layer"]) for layer in layers)
    lines = [f"  {len(layers)} changed layers, with the Frobenius norm of the change:"]
    for layer in layers:
        norm = f"{layer['norm']:.5g}" if "norm" in layer else "depends on the backbone"
        rank = f" of rank {layer['rank']}, scale {layer['scale']:g}" if "rank" in layer else ""
        lost = f", {errors[layer['layer']]:.2%} of the difference lost" if layer["layer"] in errors else ""
        lines.append(f"    {layer['layer']:{width}}  {norm:>10}  {layer['change']}{rank}{lost}")
    return lines
