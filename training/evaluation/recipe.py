"""The teacher's paths of a run: what they are made with, where their states are kept, and the held-out ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

from torch import Tensor

from ..config import Config
from ..data.base import Data
from ..data.levels import levels
from ..data.paths import PathCache, Plan, Recipe, fill, read_prompts
from ..data.teacher_paths import TeacherPaths
from ..errors import ConfigError
from ..methods.distillation import Distillation
from ..run.record import weights_digest
from .jump_error import segments


def recipe(method: Distillation) -> Recipe:
    """What the paths of a method's teacher are made with."""
    grid, options, data = method.schedule.grid, method.options, method.data
    told = data.unconditional(data.conditions([""]))
    tensors = {each.name: getattr(told, each.name) for each in fields(told)}
    return Recipe(
        teacher=method.sources["teacher"]["weights"],
        guidance=options.guidance,
        embedded_guidance=options.embedded_guidance,
        unconditional=weights_digest({name: value for name, value in tensors.items() if isinstance(value, Tensor)}),
        grid=f"{grid.prediction} of {grid.points} points at shift {grid.shift:g}",
        shape=list(data.latent_shape),
    )


def training_plan(method: Distillation, config: Config) -> Plan:
    """The paths to train on. Raises ConfigError where there is no prompt."""
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
    count = -(-wanted.count // wanted.batch_size) * wanted.batch_size
    nodes, kept = levels(method.schedule, [method.sigmas(steps).tolist() for steps in config.runs()])
    return Plan(recipe(method), nodes, kept, config.seed, "path", count, wanted.batch_size, prompts)


def training_paths(config: Config) -> Path:
    """Where the paths to train on are."""
    return Path(config.paths.folder) if config.paths.folder else Path(config.output, "paths")


def training_data(data: Data, config: Config) -> Data:
    """What the selected stage is trained on: the data set's own clips, or paths. Raises ConfigError."""
    settings = config.stage_data()
    if settings.source is None:
        return data
    return TeacherPaths(data, PathCache.read(training_paths(config)), settings.text_dropout)


def held_out(method: Distillation, config: Config) -> PathCache | None:
    """The held-out paths of a run, made where they are not there yet; None where there is no prompt to make them of.

    Raises ConfigError where those that a configuration names were made with something else, or lack levels.
    """
    if config.watch.folder is not None:
        cache = PathCache.read(config.find(config.watch.folder, "cache of held-out paths", "Set watch.folder."))
        cache.plan.recipe.check(recipe(method), cache.folder)
        cache.require_whole()
        return cache
    prompts = config.validation.prompts or list(method.data.prompts)[: config.watch.paths]
    if not prompts:
        return None
    run = method.sigmas(config.validation.steps).tolist()
    nodes, kept = levels(method.schedule, [run], [segment.end for segment in segments(method, run)])
    count, seed = config.watch.paths, config.validation.seed
    plan = Plan(recipe(method), nodes, kept, seed, "held-out path", count, min(count, method.data.batch_size), prompts)
    name = hashlib.sha256(json.dumps(asdict(plan)).encode()).hexdigest()[:12]
    folder, world = Path(config.output, "held_out", name), method.world
    if world.first:
        PathCache.begin(folder, plan)
    world.gathered(None)  # its index is there
    cache = PathCache.read(folder)
    if world.first and cache.missing():
        print(f"Solving {len(cache)} held-out paths of the teacher, {plan.calls} calls each, into {cache.folder}")
    for _ in fill(cache, method.data, method.guided_teacher, method.process, world):
        pass
    return cache
