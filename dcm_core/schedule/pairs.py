"""Two whole models that share one run: which noise levels belong to the high-noise and which to the low-noise one.

In this project's terms the high-noise model is the semantic expert, the low-noise model the detail expert, and the
boundary between them a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .experts import ExpertSchedule, PartNames, Threshold
from .grid import NoiseGrid, real_number

PAIR_NAMES = PartNames(("high noise", "low noise"), ("high-noise model", "low-noise model"), "boundary")


def pair_schedule(
    boundary: float, grid: NoiseGrid, lists: Mapping[int, tuple[float, ...]] | None = None
) -> ExpertSchedule:
    """The schedule of a pair whose high-noise model acts iff ``sigma >= boundary``.

    ``lists`` are noise levels by number of steps; all else is shared evenly on the grid. In v-prediction the boundary
    is a timestep / 1000, and the nearest grid point is taken.
    Raises ValueError for a boundary that leaves a model nothing to do.
    """
    if grid.prediction != "flow":
        return ExpertSchedule(grid, grid.cut("boundary", boundary))
    lowest = grid.sigma(0)
    if not lowest < real_number("boundary", boundary) <= 1:
        raise ValueError(f"boundary is {boundary}: use a noise level (sigma) above {lowest:.4f}, up to 1.")
    below = int((grid.sigmas < boundary).sum()) - 1
    # As the schedule will compare it, in float32: a step exactly at the boundary is the high-noise model's.
    threshold = Threshold(float(1000 * torch.tensor(boundary, dtype=torch.float32)))
    return ExpertSchedule(grid, below, threshold, lists or {})
