"""What weights were trained with: it travels in their checkpoint, and a run that says otherwise is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, MethodOptions, Section
from ..errors import ConfigError

CONTENT = "the data set"  # what it holds; checkpoints of former trainers say the beginning of it, or nothing
# What may differ where the content is the same: places, and the number of paths, which the content says as well.
_WITHIN_CONTENT = {f"data.options.{name}" for name in ("cache", "folder", "encoders", "fingerprint")} | {"paths.count"}

Record = dict[str, Any]  # by the full name of a setting
_SAMPLED = 4096  # values of a tensor that its digest reads


def record(config: Config, options: MethodOptions, sources: Mapping[str, Any], schedule: Mapping[str, Any]) -> Record:
    """Every setting of the selected stage that its weights depend on, with defaults and presets resolved.

    ``options``: the method's. ``sources``: of the options that name files, by name, what was found in them.
    ``schedule``: what the method takes of the schedule.
    """
    stage = config.selected()
    settings = {
        "seed": config.seed,
        "backbone": _plain(config.backbone, include={"name", "family", "size", "architecture"}),
        "schedule": dict(schedule),
        "compute": _plain(config.compute, include={"dtype", "base"}),
        "data": _plain(config.stage_data()),
        "stages": {
            config.stage: {
                "method": stage.method,
                "ema_decay": stage.ema_decay,
                "optimizer": _plain(stage.optimizer),
                "options": _plain(options) | dict(sources),
            }
        },
    }
    if config.stage_data().source is not None:
        settings["paths"] = _plain(config.paths, include={"prompts", "count", "batch_size", "steps"})
    return dict(_flat("", settings))


def check_unchanged(kept: Record, now: Record, checkpoint: Path, stage: str) -> None:
    """Raises ConfigError naming every setting that is not what the weights of a checkpoint were trained with.

    A data set that says what it holds may have moved.
    """
    before, content = kept.get(CONTENT, ""), now.get(CONTENT, "")
    free = _WITHIN_CONTENT if before and before == content else set()
    if content.startswith(before):
        free = free | {CONTENT}
    changed = [
        f"{name} was {_shown(kept.get(name))} and is {_shown(now.get(name))} now"
        for name in [*now, *(name for name in kept if name not in now)]
        if kept.get(name) != now.get(name) and name not in free
    ]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)}. The weights in {checkpoint} were trained with the former: put it back, choose "
            f"another output, or train the stage anew with --restart stage={stage}."
        )


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Tells weights apart: over evenly spread values of every tensor, so that a large network takes a moment only."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().reshape(-1)
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(flat[:: 1 + len(flat) // _SAMPLED].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(section: Section, include: set[str] | None = None) -> dict[str, Any]:
    """The settings of a section as a file has them: lists, no tuples."""
    return section.model_dump(mode="json", include=include)


def _flat(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{where}.{key}" if where else str(key), item)
    else:
        yield where, value


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
