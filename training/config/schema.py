"""The sections of a configuration. One more is one more model, and a setting of Config.

A configuration file names the backbone, the data and one entry per stage; ``stage=semantic`` picks the stage to run.
The options of a method or a data set are models of their own, each in the file of what they belong to. The page
docs/training_options.md is made of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dcm_core.families.presets import FAMILIES, find_family
from dcm_core.schedule.experts import ExpertSchedule

from ..errors import ConfigError, MissingWeights, unknown
from .compute import ComputeConfig, ParallelConfig
from .schedule import PART_NAMES, PARTS, PairConfig, Part, ScheduleConfig, expert_schedule
from .section import Count, Decay, Positive, Section, Share, Weight, Whole, build
from .watching import AlarmsConfig, PathsConfig, WatchConfig

Pair = Annotated[tuple[Decay, Decay], Field(strict=False)]  # YAML has lists only
Seed = Annotated[int, Field(ge=0, le=2**40)]  # generators take 64 bits, and the iteration has to fit beside it


class BackboneConfig(Section):
    """Which backbone adapter, and where its weights come from."""

    name: str = Field(default="wan", description="The adapter: the name of its file in `training/backbones`.")
    family: str = Field(
        default="",
        description="Whose noise schedule it has, and what exported files name; empty means the adapter's name.",
    )
    title: str = Field(default="", description="What exported files call the backbone; empty means the family's name.")
    size: str = Field(
        default="", description="Which of the adapter's published sizes, such as `14b`; empty means its first."
    )
    weights: str | None = Field(
        default=None,
        description="A file or folder of any layout, a name on the hub of Hugging Face (`owner/name`, of a pair "
        "`owner/name/transformer_2`), or none to start from random weights.",
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the backbone's own class, where they differ from those of `size`.",
    )

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        if family:
            find_family(family)
        return family

    @model_validator(mode="after")
    def _resolved(self) -> BackboneConfig:
        self.family = self.family or self.name
        return self


class DataConfig(Section):
    """Which data set, and its batches."""

    name: str = Field(default="shapes", description="The data set: the name of its file in `training/data`.")
    source: Literal["teacher"] | None = Field(
        default=None,
        description="`teacher` trains on the paths of the section `paths`, whose ends are the clips; none on the data "
        "set's own clips.",
    )
    batch_size: Count = Field(default=16, description="Clips of an iteration.")
    text_dropout: Share = Field(
        default=0.1, description="How often a caption is left out, so that guidance can be learned."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The data set's own options.")


class OptimizerConfig(Section):
    """The optimizer of a network."""

    name: Literal["adamw", "adamw8bit", "muon"] = Field(
        default="adamw",
        description="`muon` trains the matrices of the blocks by Muon, everything else by AdamW. `adamw8bit` keeps "
        "AdamW's averages in 8 bits, by torchao.",
    )
    fused: bool | None = Field(
        default=None,
        description="One kernel for AdamW's whole step: faster, without copies of the weights, the same but for "
        "rounding; none means on a GPU.",
    )
    lr: Positive = Field(default=1e-4, description="The learning rate after the warm-up.")
    betas: Pair = Field(default=(0.9, 0.999), description="AdamW's decays of the gradient's mean and of its square.")
    weight_decay: Weight = Field(default=0.001, description="Decoupled weight decay.")
    warmup: Whole = Field(default=0, description="Iterations over which the learning rate rises linearly.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="The learning rate after the warm-up: as it is, or falling to 0 at the last iteration.",
    )
    grad_clip: Positive = Field(default=1.0, description="The norm that gradients are cut to.")


class ValidationConfig(Section):
    """Clips sampled while training."""

    every: Whole = Field(default=0, description="After so many iterations each; 0 is never.")
    prompts: list[str] = Field(default_factory=list, description="The captions, one clip each.")
    steps: Count = Field(
        default=4, description="Steps of a few-step method; the teacher always takes every point of the grid."
    )
    seed: Seed = Field(default=0, description="Of the clips' noise.")
    frames_per_second: Positive = Field(default=16.0, description="Of the written videos.")


class StageConfig(Section):
    """One stage: a method with its own options, its optimizer, and how long it runs."""

    method: str = Field(description="The name of the method's file in `training/methods`.")
    iterations: Count = Field(description="How long the stage runs.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="The student's optimizer.")
    ema_decay: Decay | None = Field(
        default=None,
        description="Of the moving average of the trained weights, which is what validation and export use; none means "
        "the weights themselves.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The method's own options.")
    data: dict[str, Any] = Field(
        default_factory=dict, description="What differs from the section `data` in this stage."
    )

    @property
    def made(self) -> str:
        """What is trained: the method's name says it, or its option where it can make several."""
        return self.options.get("expert", self.method)


class CardConfig(Section):
    """What only the maker knows, for the model card beside an exported file."""

    licence: str = Field(default="", description="Of the exported file, as hubs spell it, such as `apache-2.0`.")
    base_licence: str = Field(default="", description="Of the backbone.")
    data: str = Field(default="", description="Where the videos or prompts come from, and under which terms.")


class Config(Section):
    """A whole run. Every stage writes into `output/STAGE`."""

    output: str = Field(description="The folder of the results.")
    seed: Seed = Field(default=0, description="All that is random follows from it and the iteration.")
    stage: str = Field(default="", description="The stage to run; empty means all of them, in their order.")
    device: str = Field(default="auto", description="`cuda`, `cuda:1`, `cpu`, or `auto`: a GPU where there is one.")
    backbone: BackboneConfig = Field(default_factory=BackboneConfig, description="The network to distil.")
    pair: PairConfig | None = Field(
        default=None,
        description="Two whole models that share a run, in place of `backbone.weights`; none means a single one.",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="What it is trained on.")
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig,
        description="The noise grid and kappa; what is not given comes from the preset of `backbone.family`.",
    )
    stages: dict[str, StageConfig] = Field(
        default_factory=dict, description="The stages by name, in the order in which they run."
    )
    validation: ValidationConfig = Field(
        default_factory=ValidationConfig, description="Clips sampled while training, to be looked at."
    )
    paths: PathsConfig = Field(
        default_factory=PathsConfig, description="The teacher's own paths, as training data from prompts alone."
    )
    watch: WatchConfig = Field(
        default_factory=WatchConfig, description="How far the student's jumps lead away from held-out teacher paths."
    )
    alarms: AlarmsConfig = Field(
        default_factory=AlarmsConfig,
        description="What happens when something goes wrong: `warn` says what to do, `stop` saves and ends the stage.",
    )
    wandb: str | None = Field(
        default=None, description="A project of Weights & Biases that the curves go to as well, or none."
    )
    profile: Whole = Field(
        default=0, description="Iterations that are profiled at the beginning, into `output/STAGE/profile`; 0 is none."
    )
    compile: str | None = Field(
        default=None,
        description="Backend of torch.compile for the networks, or none. `inductor` takes minutes to start and makes "
        "an iteration about a quarter shorter.",
    )
    parallel: ParallelConfig = Field(
        default_factory=ParallelConfig, description="How several processes, as torchrun starts them, share the work."
    )
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="Precision, memory and speed.")
    checkpoint_every: Count = Field(default=500, description="Iterations between two checkpoints.")
    checkpoint_minutes: Positive | None = Field(
        default=30.0, description="Minutes after which there is a checkpoint all the same; none means never."
    )
    checkpoints_kept: Count = Field(
        default=2, description="How many of the last checkpoints are kept; the one before steps in for a damaged one."
    )
    log_every: Count = Field(default=20, description="Iterations whose mean a line of the log is.")
    export_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Of the files for ComfyUI."
    )
    card: CardConfig = Field(
        default_factory=CardConfig, description="What the model card says beside what the run itself knows."
    )
    folder: str = Field(
        default="",
        description="Where relative paths of weights are looked for before the working folder; the configuration "
        "file's own unless it says otherwise.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        problems = list(self._contradictions())
        if problems:
            raise ConfigError("\n".join(dict.fromkeys(problems)))
        return self

    def _contradictions(self) -> Iterator[str]:
        """What no section can see by itself."""
        if self.stage and self.stage not in self.stages:
            yield str(unknown("stage", self.stage, self.stages))
        yield from self.compute.contradictions(self.compile is not None)
        if self.pair is not None:
            made = {name: stage.made for name, stage in self.stages.items()}
            yield from self.pair.contradictions(self.backbone.weights, made, self.runs())
        for name in self.stages:
            try:
                self.of_stage(name).stage_data()
            except ConfigError as error:
                yield str(error)
        if self.backbone.family not in FAMILIES:  # a backbone.name that does not exist is named when it is looked up
            return
        try:
            points = self.expert_schedule().grid.points
        except ConfigError as error:
            yield str(error)
        else:
            asked = [("validation.steps", self.validation.steps), *(("paths.steps", each) for each in self.paths.steps)]
            for name, steps in asked:
                if steps > points:
                    yield f"{name}={steps} must be at most the {points} points of the grid."

    def selected(self) -> StageConfig:
        """The stage to run. Raises ConfigError where none of that name exists."""
        if self.stage not in self.stages:
            raise unknown("stage", self.stage, self.stages)
        return self.stages[self.stage]

    def of_stage(self, name: str) -> Config:
        """This configuration with that stage selected."""
        return self.model_copy(update={"stage": name})

    def stage_data(self) -> DataConfig:
        """The data section with the selected stage's overrides. Raises ConfigError."""
        values = self.data.model_dump(mode="json") | self.selected().data
        return build(DataConfig, values, f"stages.{self.stage}.data")

    def find(self, path: str, what: str, remedy: str) -> Path:
        """The file or folder that a setting names. Raises MissingWeights with the places where it is not."""
        places = list(dict.fromkeys(Path(folder, path) for folder in (self.folder, "")))
        for place in places:
            if place.exists():
                return place
        raise MissingWeights(f"There is no {what} at {' or '.join(str(p.absolute()) for p in places)}. {remedy}")

    def runs(self) -> list[int]:
        """The numbers of steps at whose noise levels states of paths are kept."""
        return self.paths.steps or [self.validation.steps]

    def expert_schedule(self) -> ExpertSchedule:
        """The grid and kappa of this run. Raises ConfigError."""
        return expert_schedule(self.backbone.family, self.schedule, self.pair)

    @property
    def part(self) -> Part | None:
        """Of a pair, the model that the selected stage is trained over; None of a single backbone."""
        return PARTS[self.selected().made] if self.pair else None

    @property
    def weights(self) -> str | None:
        """Where the weights of the selected stage's backbone come from, if they are named."""
        return getattr(self.pair, self.part) if self.part else self.backbone.weights

    @property
    def title(self) -> str:
        """What exported files and cards call the selected stage's backbone."""
        name = self.backbone.title or self.backbone.family
        return f"{name}, {PART_NAMES[self.part]}" if self.part else name


class MethodOptions(Section):
    """The options of a method; those of each stand in its file."""

    def contradictions(self, config: Config) -> Iterator[str]:
        """What cannot be beside the rest of a configuration that has this stage selected, a sentence each."""
        yield from ()
