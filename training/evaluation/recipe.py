"""The teacher's paths of a run: what they are made with, where their states are kept, and the held-out ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from torch import Tensor

from dcm_core.schedule.experts import ExpertSchedule

from ..config import Config
from ..data.base import Data
from ..data.paths import PathCache, Plan, Recipe, fill, float32, read_prompts
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


def levels(
    schedule: ExpertSchedule, runs: Iterable[Sequence[float]], others: Iterable[float] = ()
) -> tuple[list[float], list[float]]:
    """(noise levels of the solver, those whose states are kept), falling from pure noise to 0.

    The solver's are the grid's and those of the ``runs``, each a list of falling levels that ends with 0. Kept are the
    runs', two more within each of their steps, kappa, and ``others`` of the grid's.
    """
    runs = [[float32(sigma) for sigma in run] for run in runs]
    grid = [float32(sigma) for sigma in schedule.grid.sigmas.tolist()]
    nodes = sorted({*grid, *(sigma for run in runs for sigma in run), 0.0}, reverse=True)
    kept = {nodes[0], *map(float32, (schedule.kappa_sigma, *others)), 0.0}
    for run in runs:
        for first, last in zip(run, run[1:], strict=False):
            start, stop = nodes.index(first), nodes.index(last)
            kept |= {nodes[start + round((stop - start) * part / 3)] for part in range(4)}
    return nodes, sorted(kept, reverse=True)


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
    at_once = config.compute.micro_batch
    for _ in fill(cache, method.data, method.guided_teacher, method.process, world, at_once=at_once):
        pass
    return cache
