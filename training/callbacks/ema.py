"""Exponential moving average of the trained weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .base import Callback


class ExponentialAverage(Callback):
    """average += (1 - decay) * (weight - average) after each step, with a shorter memory in the first iterations."""

    def __init__(self, decay: float):
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def start(self, trainer) -> None:
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in trainer.method.trainable.items()}

    @torch.no_grad()
    def after_step(self, trainer, iteration: int, metrics: dict[str, float]) -> None:
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        for name, p in trainer.method.trainable.items():
            self.average[name].lerp_(p, 1 - decay)

    @contextmanager
    def applied(self, trainer) -> Iterator[None]:
        """The averaged weights stand in the network inside this context."""
        kept = {name: p.data for name, p in trainer.method.trainable.items()}
        try:
            for name, p in trainer.method.trainable.items():
                p.data = self.average[name]
            yield
        finally:
            for name, p in trainer.method.trainable.items():
                p.data = kept[name]

    @staticmethod
    def of(trainer) -> AbstractContextManager[None]:
        """The context of the trainer's averaged weights; without an average, its weights as they are."""
        for callback in trainer.callbacks:
            if isinstance(callback, ExponentialAverage):
                return callback.applied(trainer)
        return nullcontext()

    def state(self) -> dict[str, Any]:
        return {"average": self.average}

    def load(self, state: dict[str, Any]) -> None:
        self.average = state["average"]
