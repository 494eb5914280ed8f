"""Who takes part in the Shapes comparison: a file of rows, each a way from noise to latents."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.expert.by_steps import by_steps
from dcm_core.expert.file import load_expert
from dcm_core.families.presets import FAMILIES
from dcm_core.process import FLOW
from dcm_core.sampling import VelocityModel, euler, guided, with_experts
from dcm_core.schedule.experts import ExpertSchedule
from dcm_core.shapes import weights
from dcm_core.shapes.captions import encode_text

from ..config import BackboneConfig, Section, build, read_yaml
from ..data.batch import Conditions
from ..errors import ConfigError
from ..evaluation.store import file_digest
from ..networks.network import Network
from ..registry import build_backbone

ROWS = Path(__file__).with_name("rows.yaml")
KINDS = ("semantic", "detail")


@dataclass(frozen=True)
class Entrant:
    """A name and a function from noise [N, C, T, H, W] and captions to latents.

    ``calls``: of the network, a clip. ``recipe``: all that the function's results depend on; empty where that cannot be
    told, and the results are then never kept.
    """

    name: str
    calls: int
    guidance: float
    sample: Callable[[Tensor, Sequence[str]], Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, model: Callable[[], VelocityModel], sigmas: Tensor, guidance: float = 1.0, **recipe: Any):
        """One that follows ``model(x, sigma, text)``, which is built when it is needed, down the sigmas."""

        def sample(noise: Tensor, captions: Sequence[str]) -> Tensor:
            text = encode_text(list(captions))
            return euler(guided(model(), text, torch.zeros_like(text), guidance), noise, sigmas)

        calls = (len(sigmas) - 1) * (1 if guidance == 1 else 2)
        return cls(name, calls, guidance, sample, recipe | {"sigmas": sigmas.tolist(), "guidance": guidance})


class Row(Section):
    name: str
    steps: Annotated[int, Field(ge=1, le=50)]
    sigmas: Literal["experts", "plain"] = "experts"
    guidance: Annotated[float, Field(ge=1)] = 1.0
    semantic: str | None = None
    detail: str | None = None
    alone: Literal["semantic", "detail"] | None = None


class Rows(Section):
    rows: Annotated[list[Row], Field(min_length=1)]


def read_entrants(path: Path = ROWS) -> list[Entrant]:
    """Those of a file. Raises ConfigError naming what is wrong with it."""
    rows = build(Rows, read_yaml(path)).rows
    if len({row.name for row in rows}) < len(rows):
        raise ConfigError(f"{path}: two rows have the same name.")
    return [_entrant(row, path.absolute().parent) for row in rows]


def plain_sigmas(schedule: ExpertSchedule, steps: int) -> Tensor:
    """What an ordinary N-step run of the teacher uses: sigmas of evenly spaced u, [steps + 1], ends with 0."""
    points = schedule.grid.points
    return torch.tensor([schedule.grid.sigma(round(points * (steps - i) / steps) - 1) for i in range(steps)] + [0.0])


def _entrant(row: Row, folder: Path) -> Entrant:
    files = {kind: _file(getattr(row, kind), kind, row, folder) for kind in KINDS}
    if row.alone and not files[row.alone]:
        raise ConfigError(f"Row {row.name!r}: alone is {row.alone}, and no {row.alone} expert is named.")
    named = files["detail"] or files["semantic"]
    schedule = load_expert(named).metadata.schedule if named else FAMILIES["shapes"].schedule
    sigmas = plain_sigmas(schedule, row.steps) if row.sigmas == "plain" else schedule.sigmas(row.steps)
    made_of = {kind: file_digest(path) for kind, path in {**files, "teacher": weights.teacher()}.items() if path}
    model = partial(_model, files["semantic"], files["detail"], row.alone, schedule)
    return Entrant.of(row.name, model, sigmas, row.guidance, files=made_of, alone=row.alone)


def _file(given: str | None, kind: str, row: Row, folder: Path) -> Path | None:
    if given is None:
        return None
    if given == "published":
        return {"semantic": weights.semantic, "detail": weights.detail}[kind]()
    if given == "shipped":
        pair = by_steps(weights.experts()).get(row.steps, {})
        if kind not in pair:
            raise ConfigError(f"Row {row.name!r}: no {kind} expert for {row.steps} steps is shipped.")
        return pair[kind]
    path = folder / given
    if not path.is_file():
        raise ConfigError(f"Row {row.name!r}: there is no {kind} expert at {path}.")
    return path


@cache
def _model(semantic: Path | None, detail: Path | None, alone: str | None, schedule: ExpertSchedule) -> VelocityModel:
    """The teacher with these experts as ``model(x, sigma, text)``."""
    high, low = (_called(_network(semantic, each)) for each in (None, detail))
    if detail is None or alone == "semantic":
        return high
    return low if alone == "detail" else with_experts(high, low, schedule)


@cache
def _network(semantic: Path | None, detail: Path | None) -> Network:
    """The teacher's network with the experts in its weights."""
    backbone = build_backbone(BackboneConfig(name="shapes"))
    if detail:
        before, added = _network(semantic, None), detail
    elif semantic:
        before, added = _network(None, None), semantic
    else:
        return backbone.load(weights.teacher()).eval()
    network = copy.deepcopy(before)
    backbone.apply(network, load_expert(added))
    return network


def _called(network: Network) -> VelocityModel:
    return lambda x, sigma, text: network(x, FLOW.timestep(sigma), Conditions(text))[0]
