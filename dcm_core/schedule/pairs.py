"""Two whole models that share one run: which noise levels belong to the high-noise and which to the low-noise one.

Wan 2.2 A14B comes as such a pair. Its own inference code gives a step to the high-noise model iff
``timestep >= boundary`` (github.com/Wan-Video/Wan2.2, wan/text2video.py and wan/image2video.py), with the
boundaries below. In this project's terms the high-noise model is the semantic expert, the low-noise model the
detail expert, and the boundary a published threshold.
"""

from __future__ import annotations

import torch

from .experts import ExpertSchedule
from .grid import NoiseGrid, real_number
from .speed_presets import SPEED_PRESETS

# Noise levels from which on the high-noise model acts: wan/configs/wan_t2v_A14B.py and wan_i2v_A14B.py there.
WAN22_BOUNDARIES = {"text to video": 0.875, "image to video": 0.900}

# The shift that Wan 2.2's 4-step LoRAs are made for. Longer runs are spread evenly on this grid.
WAN22_GRID = NoiseGrid(shift=5.0, points=50)


def pair_schedule(boundary: float, grid: NoiseGrid = WAN22_GRID) -> ExpertSchedule:
    """The schedule of a pair whose high-noise model acts iff ``sigma >= boundary``.

    On Wan 2.2's grid, 4 and 8 steps are the published lists of its speed LoRAs; all else is shared evenly. In
    v-prediction the boundary is a timestep / 1000, and the nearest grid point is taken.
    Raises ValueError for a boundary that leaves a model nothing to do.
    """
    if grid.prediction != "flow":
        return ExpertSchedule(grid, grid.nearest(boundary))
    lowest = grid.sigma(0)
    if not lowest < real_number("boundary", boundary) <= 1:
        raise ValueError(
            f"boundary is {boundary}: use a noise level (sigma) above {lowest:.4f}, up to 1. Wan 2.2 has "
            + " and ".join(f"{sigma:.3f} for {task}" for task, sigma in WAN22_BOUNDARIES.items())
            + "."
        )
    below = int((grid.sigmas < boundary).sum()) - 1
    # As the schedule will compare it, in float32: a step exactly at the boundary is the high-noise model's.
    threshold = float(1000 * torch.tensor(boundary, dtype=torch.float32))
    lists = SPEED_PRESETS["wan2.2 lightning"].sigmas if grid == WAN22_GRID else {}
    return ExpertSchedule(grid, below, "official", threshold, lists)
