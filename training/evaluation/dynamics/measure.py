"""Loss, gradient and jump error of one consistency network by noise level, and how its gradients agree.

The questions are those of the paper (arXiv 2506.03123, section 3): does a single network over all noise levels learn
the same at high noise as at low noise?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcm_core.losses import pseudo_huber

from ...config import Config
from ...data.batch import Batch
from ...methods.consistency import Consistency
from ...methods.pcm import SingleOptions
from ...run.draws import Draws
from ..jump_error import HeldOut

_COMPARED = 1 << 22  # coordinates of a gradient that a cosine is made of; smaller networks have all of theirs compared


@dataclass(frozen=True)
class Measured:
    """After so many iterations, by noise level from the lowest: mean loss, norm of the mean gradient, and jump errors
    to the next level and to the last one. ``cosine[i][j]``: between a gradient at level i and one of other clips at
    level j, so that the diagonal says how much of a gradient is no chance of the clips.
    """

    iteration: int
    loss: list[float]
    gradient: list[float]
    jump_error: list[float]
    jump_error_to_end: list[float]
    cosine: list[list[float]]


def over_all_levels(config: Config, levels: int) -> Config:
    """The configuration whose selected stage is one consistency network over the whole grid, watched at ``levels``.

    All that its method shares with the others stays: teacher, guidance, mode, loss, target.
    """
    stage = config.selected()
    shared = {name: value for name, value in stage.options.items() if name in SingleOptions.model_fields}
    shared.pop("expert", None)
    single = stage.model_copy(update={"method": "lcm", "options": shared})
    validation = config.validation.model_copy(update={"steps": levels})
    return config.model_copy(update={"stages": {**config.stages, config.stage: single}, "validation": validation})


def measured(method: Consistency, found: HeldOut, index: Sequence[int], batches: int, iteration: int) -> Measured:
    """Measure at these indices of the grid, rising, on twice so many batches, after so many iterations.

    The clips are those that would come after the stage's last iteration. No weight changes.
    """
    halves = [range(batches), range(batches, 2 * batches)]
    drawn = [[_batch(method, number) for number in half] for half in halves]
    losses, norms, gradients = zip(*(_at_level(method, each, drawn) for each in index), strict=True)
    errors = found.jumps(method.student_alone)
    return Measured(
        iteration,
        list(losses),
        list(norms),
        errors.next[::-1],
        errors.end[::-1],
        [[_cosine(one, other) for other in gradients] for one in gradients],
    )


def _batch(method: Consistency, number: int) -> tuple[Batch, Draws]:
    draws = method.draws(method.stage.iterations + number)
    return method.data.batch(draws), draws


def _at_level(
    method: Consistency, index: int, halves: Sequence[Sequence[tuple[Batch, Draws]]]
) -> tuple[float, float, tuple[Tensor, Tensor]]:
    """(loss, norm of the gradient, its coordinates to be compared in each of the halves)"""
    count = sum(len(half) for half in halves)
    loss, sums = 0.0, []
    for half in halves:
        for batch, draws in half:
            loss += _gather(method, index, batch, draws) / count
        sums.append(_coordinates(method))
    gradients = [p.grad for p in method.trainable.values() if p.grad is not None]
    norm = math.sqrt(sum(float(each.float().square().sum()) for each in gradients)) / count
    for learner in method.learners.values():
        learner.forget_gradients()
    return loss, norm, (sums[0], sums[1] - sums[0])  # the second half was added to the first


def _gather(method: Consistency, index: int, batch: Batch, draws: Draws) -> float:
    """Add the gradient of a batch's mean loss to what is gathered. Returns the loss."""
    total = 0.0
    for part in draws.split(method.config.compute.micro_batch):
        share = len(part.rows) / len(draws.rows)
        first = part.rows.start - draws.rows.start
        clips = batch.rows(slice(first, first + len(part.rows))).to(method.device)
        jumps = method.compared(
            method.pairs_at(torch.full((len(part.rows),), index, device=method.device), clips, part)
        )
        loss = pseudo_huber(jumps.prediction, jumps.target, method.options.huber_c)
        (share * loss).backward()
        total += share * float(loss.detach())
    return total


def _coordinates(method: Consistency) -> Tensor:
    """Evenly spread values of the gathered gradient, on the CPU."""
    parameters = [p for p in method.trainable.values() if p.grad is not None]
    stride = -(-sum(p.numel() for p in parameters) // _COMPARED)
    return torch.cat([p.grad.flatten()[::stride].float().cpu() for p in parameters if p.grad is not None])


def _cosine(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Mean of both ways to take the two gradients from other clips."""
    pairs = ((one[0], other[1]), (one[1], other[0]))
    return sum(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs) / 2
