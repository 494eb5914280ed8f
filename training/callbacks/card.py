"""A model card beside the exported file: what it is, what it was made of, and what it took."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dcm_core.files.atomic import atomic_write

from ..config import Config, to_yaml
from ..words import span
from .base import Callback, TrainingRun

_SHOWN = ("dcm-video", "torch", "diffusers", "peft", "safetensors")


class Card(Callback):
    """Writes ``output/STAGE/README.md`` when a stage is finished, as model hubs show it."""

    def __init__(self) -> None:
        self.seconds = 0.0  # of training, over all resumes
        self.since = time.monotonic()

    def start(self, run: TrainingRun) -> None:
        self.since = time.monotonic()

    def finish(self, run: TrainingRun) -> None:
        with atomic_write(run.folder / "README.md") as file:
            world = run.method.world
            where = world.device.type if world.size == 1 else f"each of {world.size} x {world.device.type}"
            file.write(card(run.config, run.iteration, self._seconds(), where).encode())

    def state(self) -> dict[str, Any]:
        return {"seconds": self._seconds()}

    def load(self, state: dict[str, Any]) -> None:
        self.seconds = max(self._seconds(), state.get("seconds", 0.0))  # a step back takes no time back

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self.since


def _data(config: Config) -> str:
    data = config.stage_data()
    made = "paths of the teacher itself, from prompts alone, of " if data.source == "teacher" else ""
    options = ", ".join(f"{name} {value}" for name, value in data.options.items())
    return f"not stated: {made}{data.name}{f' ({options})' if options else ''}"


def card(config: Config, iterations: int, seconds: float, where: str) -> str:
    """The text; ``seconds`` of training on ``where``."""
    config = _shareable(config)
    stage, backbone, told = config.selected(), config.backbone, config.card
    data, weights = config.stage_data(), stage.options.get("teacher") or config.weights
    rows = {
        "base": f"{config.title}, {weights or 'trained by this configuration'}",
        "licence of the base": told.base_licence or "not stated: it binds these weights too",
        "data": told.data or _data(config),
        "licence of this file": told.licence or "not stated",
        "method": f"{stage.method}, {iterations} iterations of {data.batch_size}",
        "noise grid": f"shift {config.expert_schedule().grid.shift:g}, {config.expert_schedule().grid.points} points, "
        f"kappa index {config.expert_schedule().kappa_index}",
        "seed": str(config.seed),
        "time": f"{span(seconds)} on {where}",
        "made with": ", ".join(f"{name} {found}" for name in _SHOWN if (found := _version(name)))
        + f", Python {platform.python_version()}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\ntags: [video, dcm, {backbone.family}]\n{_front(told.licence)}---\n"
        f"# {config.stage} of {config.title}, for DCM for ComfyUI\n\n| | |\n|---|---|\n{table}\n\n"
        f"The whole configuration:\n\n```yaml\n{to_yaml(config)}```\n"
    )


def _front(licence: str) -> str:
    return f"license: {licence}\n" if licence else ""


def _shareable(config: Config) -> Config:
    """Without folders of this machine: of files and folders that are named from its root on, their own names."""
    return _named(config.model_copy(update={"folder": "", "output": Path(config.output).name}))


def _named(value: Any) -> Any:
    if isinstance(value, BaseModel):  # a copy is not checked anew: two files of a pair may have one name in two folders
        return value.model_copy(update={name: _named(getattr(value, name)) for name in type(value).model_fields})
    if isinstance(value, dict):
        return {name: _named(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_named(each) for each in value)
    here = isinstance(value, str) and os.path.isabs(value) and os.path.exists(value)
    return Path(value).name if here else value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
