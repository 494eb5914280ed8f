"""The noise levels of the teacher's paths: where it is asked, and where its states are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dcm_core.schedule.experts import ExpertSchedule
from dcm_core.schedule.grid import NoiseGrid

from ..config import Part


def solver_levels(grid: NoiseGrid, runs: Iterable[Sequence[float]]) -> list[float]:
    """The grid's levels and those of the ``runs``, each a list of levels: falling from pure noise to 0."""
    own = grid.sigmas.tolist()
    return sorted({*map(float32, own), *(float32(sigma) for run in runs for sigma in run), 0.0}, reverse=True)


def levels(
    schedule: ExpertSchedule, runs: Sequence[Sequence[float]], others: Iterable[float] = ()
) -> tuple[list[float], list[float]]:
    """(noise levels of the solver, those whose states are kept), falling from where the runs begin to where they end.

    Those are pure noise and 0, but for a pair of models. Kept are the levels of the ``runs``, falling lists, two more
    within each of their steps, kappa, and ``others`` of the grid's.
    """
    first, last = (float32(sigma) for sigma in (max(run[0] for run in runs), min(run[-1] for run in runs)))
    nodes = [level for level in solver_levels(schedule.grid, runs) if last <= level <= first]
    kept = {first, *map(float32, (schedule.kappa_sigma, *others)), last}
    for run in runs:
        places = [nodes.index(float32(sigma)) for sigma in run]
        for start, stop in zip(places, places[1:], strict=False):
            kept |= {nodes[start + round((stop - start) * part / 3)] for part in range(4)}
    return nodes, sorted(kept, reverse=True)


def share(schedule: ExpertSchedule, part: Part | None, sigmas: Tensor) -> Tensor:
    """Of the levels of a whole run those at which one model of a pair acts, and where its part ends; all without."""
    if part is None:
        return sigmas
    steps, _ = schedule.split(sigmas)
    return sigmas[: steps + 1] if part == "high_noise" else sigmas[steps:]


def float32(level: float) -> float:
    """A noise level as float32 has it, which is what samplers and networks are given."""
    return float(torch.tensor(level, dtype=torch.float32))
