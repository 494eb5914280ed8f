"""The jump error: how far a student's jumps lead away from held-out paths of its teacher, by noise level.

From the state ``x`` of a path at a noise level of a run, the student jumps to a lower one. The error is the distance of
where it lands to where the path is there, over the distance that the path goes between the two:

    |jump(x) - path(end)| / |path(start) - path(end)|

So 0 is the teacher's path, 1 is as far away as without a jump, and levels can be compared. All are means over paths.

A regression can answer with the mean of what is possible, which is blurred. So beside the error stands the energy of
fine detail in the clean video that a jump aims at, over that of the jump which lands on the path: below 1 it is
blurred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dcm_core.sampling import VelocityModel, euler
from dcm_core.schedule.curves import Curve

from ..data.batch import Conditions
from ..data.levels import float32
from ..data.paths import PathCache
from ..methods.distillation import Distillation
from ..run.draws import parts
from .clips import high_frequency

ModelOf = Callable[[Conditions], VelocityModel]


class Segment(NamedTuple):
    """Noise levels: of a run's step, ``start`` to ``next``, and ``end``, to which the student is trained to jump."""

    start: float
    next: float
    end: float


# (model, states at the start of a segment, segment) to the states at its next level and at its end
Landed = Callable[[VelocityModel, Tensor, Segment], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Errors:
    """By segment: of the jump to the next level of the run, and of that to the end of the training's span.

    ``detail``: the energy of fine detail that this second one aims at, over the path's.
    """

    next: list[float]
    end: list[float]
    detail: list[float]

    @property
    def mean(self) -> float:
        return sum(self.next) / len(self.next)


def segments(method: Distillation, run: Sequence[float]) -> list[Segment]:
    """The steps of a run in which the method's student acts, falling."""
    grid, found = method.schedule.grid, []
    for start, following in zip(run, run[1:], strict=False):
        index = grid.nearest(start)
        for span in method.spans():
            if index in span:  # the lowest span ends at the last noise level; a run goes on to 0
                found.append(Segment(start, following, float32(grid.sigma(span.start - 1)) if span.start else 0.0))
    return found


class HeldOut:
    """Held-out paths, and what is measured on them for a run of so many steps."""

    def __init__(self, method: Distillation, cache: PathCache, steps: int):
        """Raises ConfigError where the cache lacks the states at a level."""
        self.method, self.cache, self.process = method, cache, method.process
        self.run = [float32(sigma) for sigma in method.sigmas(steps).tolist()]
        self.segments = segments(method, self.run)
        cache.positions([*self.run, *(segment.end for segment in self.segments)])

    def labels(self) -> list[str]:
        """The segments by the noise levels where they start."""
        return self.method.schedule.grid.curve.labels([segment.start for segment in self.segments], 3)

    @torch.no_grad()
    def jumps(self, model_of: ModelOf) -> Errors:
        """Of single jumps from the teacher's states."""

        def landed(model: VelocityModel, x: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
            velocity = model(x, x.new_full((len(x),), segment.start))
            return (
                self.process.jump(x, velocity, segment.start, segment.next),
                self.process.jump(x, velocity, segment.start, segment.end),
            )

        return self._errors(model_of, landed, len(self.cache))

    @torch.no_grad()
    def floor(self, teacher_of: ModelOf, paths: int) -> Errors:
        """Of the teacher from its own states on a grid four times finer: no jump error is meant to go below."""

        def landed(model: VelocityModel, x: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
            levels = self._finer(segment)
            states: list[Tensor] = []
            euler(model, x, levels, lambda _, state, __: states.append(state), self.process)
            return states[levels.index(segment.next) - 1], states[levels.index(segment.end) - 1]

        return self._errors(teacher_of, landed, min(paths, len(self.cache)))

    def floor_calls(self) -> int:
        """Of the network, for the floor of one path."""
        steps = sum(len(self._finer(segment)) - 1 for segment in self.segments)
        return steps * (1 if self.cache.plan.recipe.guidance == 1 else 2)

    def _finer(self, segment: Segment) -> list[float]:
        nodes, lowest = self.cache.plan.nodes, min(segment[1:])
        return finer(self.method.schedule.grid.curve, [n for n in nodes if lowest <= n <= segment.start])

    @torch.no_grad()
    def own(self, model_of: ModelOf) -> list[float]:
        """Of a run from noise, by segment: how far the student's own state is from the path after the step.

        The first step starts where the path does; later ones show what errors before them do to the jumps.
        """
        steps = [self.run.index(segment.start) for segment in self.segments]
        levels, places = self.run[: steps[-1] + 2], self.cache.positions(self.run)
        errors = []
        for numbers, conditions in self._batches(len(self.cache)):
            path = self._states(numbers, places)
            arrived: list[Tensor] = []
            euler(model_of(conditions), path[0], levels, lambda _, x, __, to=arrived: to.append(x), self.process)
            errors.append(torch.stack([relative(arrived[n], path[n + 1], path[n]) for n in steps]))
        return torch.cat(errors, dim=1).mean(dim=1).tolist()

    def _errors(self, model_of: ModelOf, landed: Landed, paths: int) -> Errors:
        """Means over paths of where a model lands from the start of each segment."""
        places = [self.cache.positions(segment) for segment in self.segments]
        errors = []
        for numbers, conditions in self._batches(paths):
            model = model_of(conditions)
            for segment, (start, following, end) in zip(self.segments, places, strict=True):
                x, at_next, at_end = self._states(numbers, (start, following, end))
                to_next, to_end = landed(model, x, segment)
                aimed, wanted = (high_frequency(self._clean(x, to, segment)) for to in (to_end, at_end))
                error = [relative(to_next, at_next, x), relative(to_end, at_end, x), aimed / wanted]
                errors.append(torch.stack(error))
        count = len(self.segments)
        means = [torch.cat(errors[number::count], dim=1).mean(dim=1).tolist() for number in range(count)]
        return Errors(*map(list, zip(*means, strict=True)))

    def _clean(self, x: Tensor, arrived: Tensor, segment: Segment) -> Tensor:
        """Where the jump from ``x`` that arrives there at the segment's end would be without noise."""
        velocity = self.process.velocity(x, arrived, segment.start, segment.end)
        return self.process.jump(x, velocity, segment.start, 0.0)

    def _batches(self, paths: int) -> Iterator[tuple[range, Conditions]]:
        """Numbers of paths, and what networks are told with them."""
        batch = self.cache.plan.batch
        for numbers in parts(range(paths), min(batch, self.method.config.compute.micro_batch or batch)):
            conditions = self.method.data.conditions(self.cache.plan.captions(numbers))
            yield numbers, conditions.to(self.method.device)

    def _states(self, numbers: Iterable[int], places: Sequence[int]) -> Tensor:
        """[L, N, C, T, H, W] on the method's device."""
        return self.cache.states(numbers, places).transpose(0, 1).to(self.method.device)


def relative(arrived: Tensor, wanted: Tensor, start: Tensor) -> Tensor:
    """[B]: the distance of ``arrived`` to ``wanted``, over that of ``start`` to ``wanted``."""
    return (arrived - wanted).flatten(1).norm(dim=1) / (start - wanted).flatten(1).norm(dim=1)


def finer(curve: Curve, levels: Sequence[float], parts: int = 4) -> list[float]:
    """Falling levels with ``parts - 1`` more between each and the next, evenly in the solver's time."""
    times = [curve.u(level) for level in levels]
    result = [levels[0]]
    for (first, last), level in zip(zip(times, times[1:], strict=False), levels[1:], strict=True):
        between = (curve.sigma(first + (last - first) * part / parts) for part in range(1, parts))
        result += [each for each in map(float32, between) if level < each < result[-1]] + [level]
    return result
