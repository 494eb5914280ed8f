"""The noise grid and kappa of a run: by a family's preset, or by the boundary between the two models of a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from dcm_core.families.presets import find_family, preset
from dcm_core.schedule.experts import ExpertSchedule, Midpoint
from dcm_core.schedule.grid import NoiseGrid
from dcm_core.schedule.pairs import PAIR_NAMES

from ..errors import ConfigError
from .section import Count, Positive, Section, Whole

Part = Literal["high_noise", "low_noise"]
PART_NAMES: dict[Part, str] = {"high_noise": PAIR_NAMES.full[0], "low_noise": PAIR_NAMES.full[1]}
PARTS: dict[str, Part] = {"semantic": "high_noise", "detail": "low_noise"}  # by the expert over it


class ScheduleConfig(Section):
    """The noise grid and kappa; what is not given comes from the preset of `backbone.family`."""

    rule: Literal["aligned", "official"] = Field(
        default="aligned", description="The preset: `aligned` for experts that are made here, `official` as published."
    )
    shift: Positive | None = Field(
        default=None, description="The shift of the noise levels, as the backbone is sampled with."
    )
    points: Count | None = Field(default=None, description="How many noise levels the grid has.")
    kappa_index: Whole | None = Field(
        default=None,
        description="The grid point where the semantic expert ends and the detail expert begins. Of a pair it is the "
        "one nearest to `pair.boundary`.",
    )

    def moved(self, grid: NoiseGrid) -> NoiseGrid:
        """The grid with what is given here. Raises ValueError."""
        given = {"shift": self.shift, "points": self.points}
        return dataclasses.replace(grid, **{name: value for name, value in given.items() if value is not None})


class PairConfig(Section):
    """Two whole models that share a run, as those of Wan 2.2 A14B: the semantic expert lies over the one that takes
    the high noise, the detail expert over the other, with nothing below it. One of them is loaded at a time."""

    high_noise: str = Field(
        description="The weights that a semantic expert is trained over, named like `backbone.weights`."
    )
    low_noise: str = Field(description="Those that a detail expert is trained over.")
    boundary: Positive | Literal["text", "image"] = Field(
        default="text",
        description="The noise level (sigma) from which on the high-noise model acts, or whose of the family's own: "
        "`text` or `image` to video. Kappa is the grid point nearest to it.",
    )

    def contradictions(self, weights: str | None, made: Mapping[str, str], runs: Sequence[int]) -> Iterator[str]:
        """What cannot be together, a sentence each. ``made``: by stage what it trains; ``runs``: numbers of steps."""
        if Path(self.high_noise) == Path(self.low_noise):
            yield (
                f"pair.high_noise and pair.low_noise are both {self.high_noise}: name the two files or folders of the "
                "pair."
            )
        if weights is not None:
            yield f"backbone.weights={weights} beside pair: the weights of a pair are named there, so leave it out."
        for stage, what in made.items():
            if what not in PARTS:
                yield (
                    f"stages.{stage} trains one model for all noise levels ({what}), which a pair shares: train a "
                    f"{' and a '.join(PARTS)} expert, or leave pair out."
                )
        if 1 in runs:
            yield "validation.steps and paths.steps: a run of a pair has a step of each model, so take 2 or more."


def expert_schedule(family: str, wanted: ScheduleConfig, pair: PairConfig | None) -> ExpertSchedule:
    """The grid and kappa of a run. Raises ConfigError."""
    try:
        return _of_family(family, wanted) if pair is None else _of_pair(family, wanted, pair)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"schedule: {error}") from None


def _of_family(family: str, wanted: ScheduleConfig) -> ExpertSchedule:
    known = preset(family, wanted.rule)
    if wanted.shift is wanted.points is wanted.kappa_index is None:
        return known
    kappa = known.kappa_index if wanted.kappa_index is None else wanted.kappa_index
    return ExpertSchedule(wanted.moved(known.grid), kappa)


def _of_pair(family: str, wanted: ScheduleConfig, pair: PairConfig) -> ExpertSchedule:
    record = find_family(family)
    if record.pair is None:
        raise ConfigError(f"pair: {record.title} has no pairs of models that share a run. Leave it out.")
    if wanted.rule != Midpoint.rule:
        raise ConfigError(f"schedule.rule={wanted.rule}: no experts of pairs were published. Leave it out.")
    boundary = getattr(record.pair, pair.boundary) if isinstance(pair.boundary, str) else pair.boundary
    grid = wanted.moved(record.pair.grid)
    kappa = grid.cut("pair.boundary", boundary)
    if wanted.kappa_index not in (None, kappa):
        raise ConfigError(
            f"schedule.kappa_index={wanted.kappa_index}: the experts of a pair meet at its boundary of {boundary:g}, "
            f"to which point {kappa} is the nearest. Leave kappa_index out, or change pair.boundary."
        )
    return ExpertSchedule(grid, kappa)
