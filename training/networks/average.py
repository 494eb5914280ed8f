"""Moving averages of trained weights, and lending a network other values for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]
Values = Mapping[str, Tensor]


class MovingAverage:
    """``average += (1 - decay) * (weight - average)`` after each step.

    ``values``: where the average lives, by the parameters' names; none means copies of the parameters.
    ``warm_up``: a shorter memory in the first iterations, so that the start is soon forgotten.
    """

    def __init__(self, parameters: Parameters, decay: float, values: Values | None = None, warm_up: bool = False):
        self.parameters, self.decay, self.warm_up = parameters, decay, warm_up
        self.values = copied(parameters) if values is None else values

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Take in the weights after an iteration, counted from 0."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration)) if self.warm_up else self.decay
        for name, p in self.parameters.items():
            value = self.values[name]
            value.lerp_(p.to(value.device), 1 - decay)  # a target's is at home, where its blocks come from

    def tensors(self) -> Values:
        """What a resume needs, as it lives: what is written into it is restored."""
        return self.values


@contextmanager
def exchanged(parameters: Parameters, values: Values) -> Iterator[None]:
    """Inside this context the parameters and the values have changed places, bit for bit.

    In place and tensor by tensor: no second copy of a network is made, and a compiled one sees it. A backward pass
    that is still to come over these parameters would fail, loudly.
    """
    _exchange(parameters, values)
    try:
        yield
    finally:
        _exchange(parameters, values)


def copied(parameters: Parameters) -> dict[str, Tensor]:
    """The present values, to keep."""
    return {name: p.detach().clone() for name, p in parameters.items()}


@torch.no_grad()
def _exchange(parameters: Parameters, values: Values) -> None:
    for name, value in values.items():
        former = parameters[name].clone()
        parameters[name].copy_(value)
        value.copy_(former)
