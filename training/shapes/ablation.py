"""The rows of an ablation on Shapes: a YAML file of what is trained and how it is sampled, and its jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from dcm_core.files.atomic import atomic_write

from ..config import ConfigError, Count, Positive, Section, Whole, build, read_yaml
from ..evaluation.store import file_digest

RESULT, LOG, CONFIG = "result.json", "log.txt", "config.yaml"
_FAILURE = re.compile(r"error: |[\w.]*(Error|Exception)\b")  # what a process says last that did not end well


class Row(Section):
    """One way to make and sample networks. Without ``stages`` and ``trained`` it is the teacher itself."""

    name: str = Field(description="In the table, and of the folder.")
    steps: Count = Field(default=4, description="Of the run; `validation.steps` is set to it.")
    stages: dict[str, Any] = Field(default_factory=dict, description="What distill.py trains, as in its configuration.")
    settings: dict[str, Any] = Field(default_factory=dict, description="What differs from `base`.")
    trained: str = Field(default="", description="Another row, whose networks are sampled in another way.")
    pair: bool = Field(default=False, description="The two stages are whole networks, above kappa and below.")
    sampler: Literal["euler", "renoised"] = Field(
        default="euler", description="`renoised`: each step goes to clean latents and up again with fresh noise."
    )
    guidance: Positive = Field(default=1.0, description="When sampling; the teacher has that of the file.")
    paths: bool = Field(default=False, description="It learns from the teacher's paths, which are made first.")
    not_run: str = Field(default="", description="Why this row is not run, for the table.")


class Block(Section):
    """Rows that belong together."""

    title: str
    seeds: list[Whole] = Field(default_factory=lambda: [0], description="Of the training.")
    rows: list[Row]


class Ablation(Section):
    """A whole ablation."""

    output: str = Field(description="The folder of the results.")
    base: dict[str, Any] = Field(description="A configuration of distill.py without stages and output.")
    guidance: Positive = Field(description="The teacher's.")
    clips: Count = Field(default=288, description="That each row is measured on.")
    seed: Whole = Field(default=2025, description="Of their prompts and noise.")
    parts: Any = Field(default=None, description="What rows are made of by YAML's anchors.")
    blocks: list[Block]


@dataclass(frozen=True)
class Job:
    """A row with a seed of its training; the teacher has one seed alone."""

    ablation: Ablation
    row: Row
    seed: int

    @property
    def folder(self) -> Path:
        return Path(self.ablation.output, slug(self.row.name), f"seed{self.seed}")

    @property
    def source(self) -> Job | None:
        """The job whose networks this one samples."""
        return find(self.ablation, self.row.trained, self.seed) if self.row.trained else None

    def config(self) -> dict[str, Any]:
        """The configuration that distill.py trains."""
        own = {
            "output": str(self.folder),
            "seed": self.seed,
            "validation": {"steps": self.row.steps},
            "stages": self.row.stages,
        }
        return _merged(_merged(self.ablation.base, self.row.settings), own)

    def samples(self) -> int:
        """Clips that the networks were trained on, all stages together."""
        if source := self.source:
            return source.samples()
        usual = self.config().get("data", {}).get("batch_size", 16)
        stages = self.row.stages.values()
        return sum(each["iterations"] * each.get("data", {}).get("batch_size", usual) for each in stages)

    def asked(self) -> dict[str, Any]:
        """All that the result depends on, wherever it is made: so folders of rows can be brought together."""
        config = (self.source or self).config()
        teacher = _teacher_file(config)
        return {
            "row": self.row.model_dump(mode="json", exclude={"name"}),
            "config": _without_places(config),
            "teacher": teacher and file_digest(teacher),
            "guidance": self.ablation.guidance,
            "clips": self.ablation.clips,
            "seed": self.ablation.seed,
        }

    def write_config(self) -> Path:
        path = self.folder / CONFIG
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(yaml.safe_dump(self.config(), sort_keys=False).encode())
        return path

    def write_result(self, values: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / RESULT) as file:
            file.write((json.dumps({"asked": self.asked(), **values}, indent=1) + "\n").encode())

    def result(self) -> dict[str, Any] | None:
        """What came out, unless something else was asked then."""
        try:
            found = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found if found["asked"] == self.asked() else None

    def why_not(self) -> str:
        """Why there is no result."""
        if self.row.not_run:
            return self.row.not_run
        if (source := self.source) and source.result() is None:
            return f"'{source.row.name}' did not run"
        log = self.folder / LOG
        lines = log.read_text(encoding="utf-8").strip().splitlines() if log.exists() else []
        told = [line for line in lines if _FAILURE.match(line)]
        if told:
            return told[-1].removeprefix("error: ")
        if (self.folder / RESULT).exists():
            return "its result was made with other settings"
        return "it was stopped" if lines else "no time"


def load_ablation(path: Path) -> Ablation:
    """Read a file of rows. Raises ConfigError naming all that is wrong."""
    ablation = build(Ablation, read_yaml(path))
    ablation.base.setdefault("folder", str(path.absolute().parent))
    names = [slug(row.name) for block in ablation.blocks for row in block.rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: two rows would share the folder {twice[0]}; give each a name of its own.")
    for job in jobs(ablation):
        _ = job.source  # raises where there is no such row
    return ablation


def jobs(ablation: Ablation) -> Iterator[Job]:
    """All, in the order of the file."""
    for block in ablation.blocks:
        for row in block.rows:
            yield from of_row(ablation, block, row)


def of_row(ablation: Ablation, block: Block, row: Row) -> list[Job]:
    learns = row.stages or row.trained
    return [Job(ablation, row, seed) for seed in (block.seeds if learns else [0])]


def find(ablation: Ablation, name: str, seed: int) -> Job:
    """Raises ConfigError where there is no such row."""
    for job in jobs(ablation):
        if (job.row.name, job.seed) == (name, seed):
            return job
    raise ConfigError(f"There is no row {name!r} with seed {seed}.")


def slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("+", "with_")).strip("_")


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what only says where a row is trained, and where its files lie."""
    kept = {key: value for key, value in config.items() if key not in ("output", "folder", "device")}
    kept["backbone"] = {key: value for key, value in config["backbone"].items() if key != "weights"}
    kept["paths"] = {key: value for key, value in config.get("paths", {}).items() if key != "folder"}
    return kept


def _teacher_file(config: dict[str, Any]) -> Path | None:
    """The teacher's weights, if they are there."""
    weights = config["backbone"].get("weights", "")
    places = Path(config["folder"], weights), Path(weights)
    return next((place for place in places if place.is_file()), None)


def _merged(values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, of which some are changed."""
    result = dict(values)
    for key, value in changed.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
