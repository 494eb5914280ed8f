"""The configuration: dataclasses, a YAML file, and dotted overrides.

A configuration file names the backbone, the data and one entry per stage; ``stage=semantic`` picks the stage to run.
Unknown keys are errors that name the nearest known key, unknown choices errors that list what there is.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml

from dcm_core.families.presets import preset
from dcm_core.schedule.experts import ExpertSchedule

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and what to write instead."""


def unknown(key: str, value: object, choices: Iterable[str]) -> ConfigError:
    """The error of a setting whose value is none of the choices."""
    names = list(choices)
    listed = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
    return ConfigError(f"{key}={value!r} is unknown; {f'use {listed}' if names else 'there is none'}.")


@dataclass(kw_only=True)
class BackboneConfig:
    """Which backbone adapter, and where its weights come from.

    ``name``: of the adapter's file in ``training/backbones``.
    ``family``: whose noise schedule it has, and what exported files name; none means the adapter's name.
    ``title``: what exported files call the backbone; none means the family's name.
    ``weights``: a file or folder of any layout, or none to start from random weights.
    ``architecture``: arguments of the backbone's own class, where they differ from the adapter's.
    """

    name: str = "wan"
    family: str = ""
    title: str = ""
    weights: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.family = self.family or self.name


@dataclass(kw_only=True)
class ScheduleConfig:
    """The noise grid and kappa; what is not given comes from the preset of ``backbone.family``."""

    rule: str = "aligned"
    shift: float | None = None
    points: int | None = None
    kappa_index: int | None = None


@dataclass(kw_only=True)
class DataConfig:
    """Which data set, its batch size, and how often a caption is dropped (to learn guidance)."""

    name: str = "shapes"
    batch_size: int = 16
    text_dropout: float = 0.1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class OptimizerConfig:
    """``name``: muon trains the matrices of the blocks by Muon, everything else by AdamW.

    ``schedule``: of the learning rate, after a linear warm-up of ``warmup`` iterations.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.001
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    grad_clip: float = 1.0


@dataclass(kw_only=True)
class ValidationConfig:
    """Clips sampled while training: every so many iterations (0 is never), of these prompts, from this seed's noise.

    ``steps``: of a few-step method; the teacher always takes every point of the grid.
    """

    every: int = 0
    prompts: list[str] = field(default_factory=list)
    steps: int = 4
    seed: int = 0
    frames_per_second: float = 16.0


@dataclass(kw_only=True)
class StageConfig:
    """One stage: a method with its own options, its optimizer, and how long it runs.

    ``method``: the name of its file in ``training/methods``.
    ``ema_decay``: of the moving average of the trained weights, which is what validation and export use; none means
    the weights themselves.
    ``data``: overrides of the data section for this stage.
    """

    method: str
    iterations: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Config:
    """A whole run. Every stage writes into ``output/STAGE``.

    ``compile``: backend of torch.compile for the networks, or none. inductor takes minutes to start and makes an
    iteration about a quarter shorter.
    ``export_dtype``: of the files for ComfyUI.
    """

    output: str
    seed: int = 0
    stage: str = ""
    device: str = "auto"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    compile: str | None = None
    checkpoint_every: int = 500
    log_every: int = 20
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def selected(self) -> StageConfig:
        """The stage to run. Raises ConfigError where none of that name exists."""
        if self.stage not in self.stages:
            raise unknown("stage", self.stage, self.stages)
        return self.stages[self.stage]

    def of_stage(self, name: str) -> Config:
        """This configuration with that stage selected."""
        return dataclasses.replace(self, stage=name)

    def stage_data(self) -> DataConfig:
        """The data section with the selected stage's overrides."""
        values = _plain(dataclasses.asdict(self.data)) | self.selected().data
        return build(DataConfig, values, f"stages.{self.stage}.data")

    def expert_schedule(self) -> ExpertSchedule:
        """The grid and kappa of this run. Raises ConfigError."""
        wanted = self.schedule
        try:
            known = preset(self.backbone.family, wanted.rule)
            if wanted.shift is wanted.points is wanted.kappa_index is None:
                return known
            given = {"shift": wanted.shift, "points": wanted.points}
            grid = dataclasses.replace(known.grid, **{k: v for k, v in given.items() if v is not None})
            kappa = known.kappa_index if wanted.kappa_index is None else wanted.kappa_index
            return ExpertSchedule(grid, kappa)
        except ValueError as error:
            raise ConfigError(f"schedule: {error}") from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply overrides such as ``stages.semantic.optimizer.lr=1e-5``. Raises ConfigError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings.")
    for override in overrides:
        _override(values, override)
    return build(Config, values)


def build(cls: type[T], values: Any, where: str = "") -> T:
    """A dataclass of type ``cls`` from plain values, checked key by key and type by type. Raises ConfigError."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the configuration'} must be a mapping, not {values!r}.")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ConfigError(f"Unknown key {_join(where, key)!r}.{_nearest(key, hints)}")
    missing = [f.name for f in dataclasses.fields(cast(Any, cls)) if f.name not in values and _required(f)]
    if missing:
        raise ConfigError(f"{where or 'the configuration'} needs {', '.join(missing)}.")
    return cls(**{key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()})


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives an equal Config."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            raise unknown(where, value, arguments)
        return value
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a mapping, not {value!r}.")
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, not {value!r}.")
        return origin(_convert(arguments[0], item, where) for item in value)
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-5 as a string
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value


def _override(values: dict, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no override; write it as key.subkey=value.")
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {parent!r} is a single value and has no keys below it.")
    values[last] = yaml.safe_load(text)


def _nearest(key: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(str(key), list(known), 1, 0.5)
    return f" Did you mean {matches[0]!r}?" if matches else f" Known keys: {', '.join(known)}."


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)
