"""A diffusers transformer as the methods call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Conditions
from .features import Features

# (x [B, C, T, H, W], timestep [B], conditions, stride) to (velocity like x, features): a network in one of its roles
Role = Callable[..., tuple[Tensor, Features | None]]


class Network(nn.Module, ABC):
    """A transformer that gives its velocity and, if asked, features, in one call of one module.

    Whoever wraps modules, to shard or to checkpoint them, sees their calls alone: so nothing is asked of the
    transformer, its blocks or its output head but within ``forward``.

    ``acting``: the names of its adapters that act now, a list that all its adapted layers share. ``compute_dtype``:
    what it computes in, by autocast: neither its inputs nor its timestep are cast.
    """

    def __init__(self, transformer: Any):
        super().__init__()
        self.transformer = transformer
        self.acting: list[str] = []
        self.compute_dtype = torch.float32

    @contextmanager
    def having(self, adapters: Sequence[str]) -> Iterator[None]:
        """Inside this context these of its adapters act, the later ones over the earlier, and no others."""
        former = self.acting[:]
        self.acting[:] = adapters
        try:
            yield
        finally:
            self.acting[:] = former

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in the order of their calls."""

    @abstractmethod
    def forward(
        self, x: Tensor, timestep: Tensor, conditions: Conditions, stride: int = 0
    ) -> tuple[Tensor, Features | None]:
        """Velocity [B, C, T, H, W] at x [B, C, T, H, W] and timestep [B] in 0..1000.

        With a stride also the tokens after blocks 0, stride, 2 stride, ..., with gradient into x.
        """
