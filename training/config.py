"""The configuration: dataclasses, a YAML file, and dotted overrides.

A configuration file names the backbone, the data and one entry per stage; ``stage=semantic`` picks the stage to run.
Unknown keys are errors that name the nearest known key, unknown choices errors that list what there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from dcm_core.families.presets import preset
from dcm_core.schedule.experts import ExpertSchedule

from .values import (
    Bounds,
    ConfigError,
    Count,
    Decay,
    Finite,
    MissingWeights,
    Positive,
    Share,
    Weight,
    Whole,
    build,
    override,
    plain,
    unknown,
)

Seed = Annotated[int, Bounds(0, 2**40)]  # generators take 64 bits, and the iteration has to fit beside it


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
    shift: Finite | None = None
    points: int | None = None
    kappa_index: int | None = None


@dataclass(kw_only=True)
class DataConfig:
    """Which data set, its batch size, and how often a caption is dropped (to learn guidance)."""

    name: str = "shapes"
    batch_size: Count = 16
    text_dropout: Share = 0.1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class OptimizerConfig:
    """``name``: muon trains the matrices of the blocks by Muon, everything else by AdamW.

    ``schedule``: of the learning rate, after a linear warm-up of ``warmup`` iterations.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Weight = 0.001
    warmup: Whole = 0
    schedule: Literal["constant", "cosine"] = "constant"
    grad_clip: Positive = 1.0


@dataclass(kw_only=True)
class ValidationConfig:
    """Clips sampled while training: every so many iterations (0 is never), of these prompts, from this seed's noise.

    ``steps``: of a few-step method; the teacher always takes every point of the grid.
    """

    every: Whole = 0
    prompts: list[str] = field(default_factory=list)
    steps: Count = 4
    seed: Seed = 0
    frames_per_second: Positive = 16.0


@dataclass(kw_only=True)
class StageConfig:
    """One stage: a method with its own options, its optimizer, and how long it runs.

    ``method``: the name of its file in ``training/methods``.
    ``ema_decay``: of the moving average of the trained weights, which is what validation and export use; none means
    the weights themselves.
    ``data``: overrides of the data section for this stage.
    """

    method: str
    iterations: Count
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: Decay | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Config:
    """A whole run. Every stage writes into ``output/STAGE``.

    ``compile``: backend of torch.compile for the networks, or none. inductor takes minutes to start and makes an
    iteration about a quarter shorter.
    ``export_dtype``: of the files for ComfyUI.
    ``folder``: where relative paths of weights are looked for before the working folder; the configuration file's own
    unless it says otherwise.
    """

    output: str
    seed: Seed = 0
    stage: str = ""
    device: str = "auto"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    compile: str | None = None
    checkpoint_every: Count = 500
    log_every: Count = 20
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    folder: str = ""

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
        values = plain(dataclasses.asdict(self.data)) | self.selected().data
        return build(DataConfig, values, f"stages.{self.stage}.data")

    def find(self, path: str, what: str, remedy: str) -> Path:
        """The file or folder that a setting names. Raises ConfigError with the places where it is not."""
        places = list(dict.fromkeys(Path(folder, path) for folder in (self.folder, "")))
        for place in places:
            if place.exists():
                return place
        raise MissingWeights(f"There is no {what} at {' or '.join(str(p.absolute()) for p in places)}. {remedy}")

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
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the YAML file in it, such as {path / 'shapes.yaml'}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings.")
    for text in overrides:
        override(values, text)
    values.setdefault("folder", str(path.absolute().parent))
    return build(Config, values)


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives an equal Config."""
    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)
