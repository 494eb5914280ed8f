"""The teacher's paths of a run: what they are made with, where their states are kept, and the held-out ones.

Of a pair of models each has its part of the paths in a folder of its own: ``high_noise`` those from noise to kappa,
``low_noise`` beside it those that go on from there. So either is made with one model in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..config import PART_NAMES, Config, Part
from ..data.base import Data
from ..data.levels import levels
from ..data.path_recipe import UNROUNDED, Recipe
from ..data.paths import BAR, PathCache, Plan, fill
from ..data.prompts import read_prompts
from ..data.teacher_paths import TeacherPaths
from ..errors import ConfigError, MissingWeights
from ..methods.distillation import Distillation
from ..run.record import weights_digest
from .jump_error import segments

logger = logging.getLogger(__name__)


def recipe(method: Distillation, prompts: Sequence[str]) -> Recipe:
    """What the paths of a method's teacher from these prompts are made with."""
    grid, options, data = method.schedule.grid, method.options, method.data
    told = data.unconditional(data.conditions([""]))
    tensors = {each.name: getattr(told, each.name) for each in fields(told)}
    cut = f", cut at {method.schedule.kappa_text}" if method.config.pair else ""
    return Recipe(
        teacher=method.sources["teacher"]["weights"],
        guidance=options.guidance,
        embedded_guidance=options.embedded_guidance,
        unconditional=weights_digest({name: value for name, value in tensors.items() if isinstance(value, Tensor)}),
        grid=f"{grid.prediction} of {grid.points} points at shift {grid.shift:g}{cut}",
        shape=list(data.latent_shape),
        frames=data.frames_of(prompts),
        base=method.config.compute.base or UNROUNDED,
    )


def training_plan(method: Distillation, config: Config, begun: PathCache | None = None) -> Plan:
    """The paths to train on, which go on from those ``begun``. Raises ConfigError where there is no prompt."""
    wanted = config.paths
    if wanted.prompts is None:
        prompts = list(method.data.prompts)
    else:
        prompts = read_prompts(config.find(wanted.prompts, "file of prompts", "Set paths.prompts to a text file."))
    if not prompts:
        raise ConfigError("paths.prompts: name a text file with a prompt a line; this data set has none at hand.")
    try:
        for prompt in prompts:
            method.data.conditions([prompt])
    except ValueError as error:
        raise ConfigError(f"paths.prompts: {error}") from None
    nodes, kept = levels(method.schedule, [method.sigmas(steps).tolist() for steps in config.runs()])
    count, batch, begins = wanted.whole, wanted.batch_size, _name(begun)
    return Plan(recipe(method, prompts), nodes, kept, config.seed, "path", count, batch, prompts, begins)


def training_paths(config: Config) -> Path:
    """Where the paths to train on are; of a pair, those of the selected stage's model."""
    folder = Path(config.paths.folder) if config.paths.folder else Path(config.output, "paths")
    return _of_part(folder, config.part)


def beginning(config: Config, folder: Path) -> PathCache | None:
    """The paths that those in this folder go on from: the high-noise model's for the low-noise one's, else none.

    Raises ConfigError where there are none yet.
    """
    return PathCache.read(folder.with_name("high_noise")) if config.part == "low_noise" else None


def check_paths(method: Distillation, config: Config) -> None:
    """Raises ConfigError where the paths to train on were made with something else than this run's teacher."""
    cache = PathCache.read(training_paths(config))
    cache.plan.recipe.check(recipe(method, cache.plan.prompts), cache.folder)
    _check_prompts(cache, config)
    if config.part is None:
        return
    high, low = (PathCache.read(cache.folder.with_name(part)) for part in PART_NAMES)
    if low.plan.begins != high.plan.name:
        raise ConfigError(
            f"The paths in {low.folder} do not go on from those in {high.folder}, which were made anew. Remove the "
            "former folder and run training/paths.py again."
        )


def _check_prompts(cache: PathCache, config: Config) -> None:
    """Raises ConfigError where the paths were made of other prompts than those that a configuration names. The file may
    be gone: the paths know theirs."""
    try:
        named = config.find(config.paths.prompts, "file of prompts", "") if config.paths.prompts else None
    except MissingWeights:
        return
    if named is not None and read_prompts(named) != cache.plan.prompts:
        raise ConfigError(
            f"paths.prompts={config.paths.prompts}: the paths in {cache.folder} were made of other prompts than are in "
            "this file now. Put those back, or make paths of these with training/paths.py into another paths.folder."
        )


def training_data(data: Data, config: Config) -> Data:
    """What the selected stage is trained on: the data set's own clips, or paths. Raises ConfigError."""
    settings = config.stage_data()
    if settings.source is None:
        return data
    cache = PathCache.read(training_paths(config))
    if config.paths.count > len(cache):
        raise ConfigError(
            f"paths.count={config.paths.count}, and {cache.folder} holds {len(cache)} paths. Run training/paths.py, "
            f"which adds the others, or set paths.count={len(cache)}."
        )
    # Of the high-noise model they end at kappa, and with the other as clips.
    rest = PathCache.read(cache.folder.with_name("low_noise")) if config.part == "high_noise" else None
    found = TeacherPaths(data, cache, settings.text_dropout, config.paths.count, rest)
    if len(found.used) < len(cache):
        logger.warning(
            "Of the %d paths in %s the first %d are trained on, as paths.count=%d says.",
            len(cache), cache.folder, len(found.used), config.paths.count,
        )  # fmt: skip
    return found


def held_out(method: Distillation, config: Config) -> PathCache | None:
    """The held-out paths of a run, made where they are not there yet; None where there is no prompt to make them of, or
    where the high-noise model of a pair has not begun them.

    Raises ConfigError where those that a configuration names were made with something else, or lack levels.
    """
    if config.watch.folder is not None:
        named = config.find(config.watch.folder, "cache of held-out paths", "Set watch.folder.")
        cache = PathCache.read(_of_part(named, config.part))
        cache.plan.recipe.check(recipe(method, cache.plan.prompts), cache.folder)
        cache.require_whole()
        if config.stage_data().source and PathCache.read(training_paths(config)).plan.name == cache.plan.name:
            logger.warning(
                "The jump error is measured on paths that are trained on, of %s: of others it says nothing.",
                cache.folder,
            )
        return cache
    prompts = config.validation.prompts or list(method.data.prompts)[: config.watch.paths]
    if not prompts:
        return None
    run = method.sigmas(config.validation.steps).tolist()
    nodes, kept = levels(method.schedule, [run], [segment.end for segment in segments(method, run)])
    count, seed = config.watch.paths, config.validation.seed
    if config.pair:  # validation clips of the low-noise model begin on them
        count = max(count, len(config.validation.prompts))
    plan = Plan(
        recipe(method, prompts), nodes, kept, seed, "held-out path", count, min(count, method.data.batch_size), prompts
    )
    folder, world = _of_part(Path(config.output, "held_out", _folder_name(plan, config)), config.part), method.world
    if config.part == "low_noise" and not folder.with_name("high_noise").exists():
        return None
    begun = beginning(config, folder)
    plan = replace(plan, begins=_name(begun))
    if world.first:
        PathCache.begin(folder, plan)
    world.gathered(None)  # its index is there
    cache = PathCache.read(folder)
    if world.first and cache.missing():
        paths = "path" if len(cache) == 1 else "paths"
        tqdm.write(
            f"Solving {len(cache)} held-out {paths} of the teacher, {plan.calls} calls each, into {cache.folder}"
        )
    todo, at_once = len(cache.missing()) * plan.batch * plan.steps, config.compute.micro_batch
    with tqdm(total=todo, desc="held-out paths", disable=not (world.first and todo), **BAR) as bar:
        models = method.guided_teacher, method.process, world
        list(fill(cache, method.data, *models, before=begun, at_once=at_once, on_step=bar.update))
    return cache


def _of_part(folder: Path, part: Part | None) -> Path:
    return folder / part if part else folder


def _name(cache: PathCache | None) -> str:
    return "" if cache is None else cache.plan.name


def _folder_name(plan: Plan, config: Config) -> str:
    """Of held-out paths. Both models of a pair give the same, of which each knows its own weights alone."""
    told: Any = asdict(plan)
    if config.pair:
        shared = replace(plan.recipe, teacher="", guidance=0.0)
        guidance = {name: stage.options.get("guidance") for name, stage in config.stages.items()}
        told = asdict(replace(plan, recipe=shared, nodes=[], levels=[]))
        told |= {"pair": config.pair.model_dump(), "steps": config.validation.steps, "guidance": guidance}
    if plan.recipe.base == UNROUNDED:  # as it was before there were others
        del told["recipe"]["base"]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
