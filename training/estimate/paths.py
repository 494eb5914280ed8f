"""What the paths of its teacher cost that a stage trains on."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..data.levels import levels, share
from ..data.path_recipe import Recipe
from ..data.paths import Plan

Latents = tuple[int, int, int, int]


def plan(config: Config, options: Any, latents: Latents) -> Plan | None:
    """The paths of the selected stage, as ``training/paths.py`` makes them of latents [C, T, H, W]; none where clips
    are trained on. It says nothing of teacher and prompts."""
    if config.stage_data().source is None:
        return None
    schedule, wanted = config.expert_schedule(), config.paths
    runs = [share(schedule, config.part, schedule.sigmas(steps)).tolist() for steps in config.runs()]
    recipe = Recipe("", options.guidance, options.embedded_guidance, "", "", list(latents))
    return Plan(recipe, *levels(schedule, runs), config.seed, "path", wanted.whole, wanted.batch_size, [])
