"""Features of a frozen teacher: the tokens after some of its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """``tokens``: [B, N, C] per layer, for the discriminator. ``grid``: how the N tokens lie, (T, h, w).
    ``velocities``: [B, C, T, H, W] per layer, the same tokens seen through the network's own output head, for feature
    matching.
    """

    tokens: list[Tensor]
    velocities: list[Tensor]
    grid: tuple[int, int, int]

    def seen_in(self, dtype: torch.dtype) -> Features:
        """The same with velocities in this dtype. Tokens stay as the network has them: they are gigabytes."""
        return replace(self, velocities=[each.to(dtype) for each in self.velocities])

    def rows(self, index: Tensor) -> Features:
        """Those of some samples of the batch."""
        return Features([each[index] for each in self.tokens], [each[index] for each in self.velocities], self.grid)


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[list]:
    """The outputs of these modules, in the order of their calls, while the context is open."""
    outputs: list = []
    handles = [module.register_forward_hook(lambda _, __, output: outputs.append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
