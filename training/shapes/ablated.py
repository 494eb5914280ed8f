"""A row of an ablation trained and measured, in the process of its own that each has."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcm_core.process import FLOW
from dcm_core.sampling import VelocityModel, with_experts
from dcm_core.schedule.experts import ExpertSchedule

from ..config import Config, load_config
from ..data.batch import Conditions
from ..evaluation.store import file_digest
from ..methods.distillation import Distillation
from ..registry import build_backbone
from ..run.world import usable_device
from ..trainer import build_trainer
from .ablation import Job
from .compare import MEASURES, Trial, compare
from .entrants import Entrant, plain_sigmas

_TEACHER_STEPS = 50


def train(job: Job) -> None:
    """Train the stages of a row, from their last checkpoints. Ends the process where one fails."""
    from ..distill import main as distill

    distill(["--config", str(job.write_config())])


def measure(job: Job) -> dict[str, Any]:
    """What the networks of a row make of the prompts, beside the teacher in many steps. Raises ConfigError."""
    made_by = job.source or job
    config = load_config(made_by.write_config())
    with ExitStack() as averaged:
        teacher = _teacher(config, job.ablation.guidance, _TEACHER_STEPS)
        if config.stages:
            entrant = _entrant(job, _trained(config, averaged))
        else:
            entrant = _teacher(config, job.ablation.guidance, job.row.steps)
        trial = Trial.of(job.ablation.clips, job.ablation.seed, again=0)
        # All rows share the clips of the teacher in many steps.
        _, row = compare([teacher, entrant], trial, shown=1, folder=Path(job.ablation.output, "clips"))
    return {
        "values": {name: row.numbers[name].value for name in MEASURES},
        "calls": entrant.calls,
        "samples": job.samples(),
        "seconds": row.seconds,
        "machine": _machine(usable_device(config.device)),
        "torch": torch.__version__,
    }


def _machine(device: torch.device) -> str:
    cores = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    return f"{cores}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else cores


def _teacher(config: Config, guidance: float, steps: int) -> Entrant:
    found = config.find(str(config.backbone.weights), "teacher", "Set base.backbone.weights to its file.")
    device = usable_device(config.device)
    network = build_backbone(config.backbone).load(found).eval().to(device)

    def model(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        return network(x, FLOW.timestep(sigma), Conditions(text))[0]

    # The same levels for all rows, whatever grid a row is trained on.
    levels = ExpertSchedule(replace(config.expert_schedule().grid, points=_TEACHER_STEPS), kappa_index=0)
    sigmas = plain_sigmas(levels, steps)
    return Entrant.of(
        f"teacher, {steps} steps", lambda: at_home(model, device), sigmas, guidance, teacher=file_digest(found)
    )


def _trained(config: Config, averaged: ExitStack) -> list[Distillation]:
    """The methods of all stages with the weights of their last checkpoints, averaged where an average is kept."""
    methods = []
    for stage in config.stages:
        trainer = build_trainer(config.of_stage(stage))
        trainer.load()
        assert isinstance(trainer.method, Distillation)
        averaged.enter_context(trainer.method.averaged())
        methods.append(trainer.method)
    return methods


def _entrant(job: Job, methods: Sequence[Distillation]) -> Entrant:
    row, last = job.row, methods[-1]
    sigmas = last.sigmas(row.steps)
    few_step = last.few_step
    if row.pair:
        few_step = _pair(*methods)

    def model(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        return few_step(Conditions(text))(x, sigma)

    there = at_home(model, last.device)
    noisy = there if row.sampler == "euler" else renoised(there, sigmas, torch.Generator().manual_seed(job.seed))
    return replace(Entrant.of(row.name, lambda: noisy, sigmas, row.guidance), recipe={})


def _pair(high: Distillation, low: Distillation) -> Callable[[Conditions], VelocityModel]:
    def both(conditions: Conditions) -> VelocityModel:
        return with_experts(high.student_alone(conditions), low.student_alone(conditions), high.schedule)

    return both


def at_home(model: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """A model on that device, for tensors that are, and whose results stay, where they were."""
    return lambda x, *others: model(x.to(device), *(each.to(device) for each in others)).to(x.device)


def renoised(model: VelocityModel, sigmas: Tensor, generator: torch.Generator) -> VelocityModel:
    """The velocity whose Euler step down ``sigmas`` is one of latent consistency (arXiv 2310.04378): to the clean
    latents, and with fresh noise up to the next level."""
    following = dict(pairwise(sigmas.tolist()))

    def stepping(x: Tensor, sigma: Tensor, *conditions: Any) -> Tensor:
        level = float(sigma[0])
        after = following[level]
        clean = FLOW.jump(x, model(x, sigma, *conditions), level, 0.0)
        landed = FLOW.noised(clean, torch.randn(x.shape, generator=generator), after)
        return (x - landed) / (level - after)

    return stepping
