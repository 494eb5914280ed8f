"""A diffusers transformer as the methods call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ..data.batch import Conditions
from ..errors import ConfigError
from .features import Features

# (x [B, C, T, H, W], timestep [B], conditions, stride) to (velocity like x, features): a network in one of its roles
Role = Callable[..., tuple[Tensor, Features | None]]


class Network(nn.Module, ABC):
    """A transformer that gives its velocity and, if asked, features, in one call of one module.

    Whoever wraps modules, to shard or to checkpoint them, sees their calls alone: so nothing is asked of the
    transformer, its blocks or its output head but within ``forward``.
    """

    def __init__(self, transformer: Any):
        super().__init__()
        self.transformer = transformer

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

    def share_context(self, mesh: DeviceMesh) -> None:
        """Let the processes of ``mesh`` share the tokens of each clip. Raises ConfigError where they cannot."""
        raise ConfigError(
            f"parallel.context: the tokens of a clip cannot be shared with {type(self.transformer).__name__}, whose "
            "attention would see those of its own process alone. Leave it at 1."
        )

    def compile_blocks(self, backend: str) -> None:
        """Let torch.compile speed the blocks up; names and weights stay what they are, and hooks go on working."""
        for block in self.blocks:
            block.forward = torch.compile(block.forward, backend=backend)
