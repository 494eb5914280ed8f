"""Random draws: a function of (seed, iteration, row of the batch) and nothing else.

So a resume needs no generator's state, and however many processes share a batch, its rows draw the same. Everything is
drawn on the CPU, since other devices have other generators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The draws of one iteration.

    ``count``: samples in the whole batch; ``rows``: which of them are drawn for here. ``stream``, in every method, is
    what a draw is for: a name of its own for each.
    """

    seed: int
    iteration: int
    count: int
    rows: range

    @classmethod
    def of(cls, seed: int, iteration: int, count: int) -> Draws:
        """For a batch that is whole here."""
        return cls(seed, iteration, count, range(count))

    def split(self, size: int | None) -> list[Draws]:
        """The same draws in parts of at most so many rows; none is no limit."""
        return [replace(self, rows=rows) for rows in parts(self.rows, size)]

    def generator(self, stream: str, row: int | None = None) -> torch.Generator:
        """Of one row of the whole batch, or of all together."""
        key = f"{self.seed}/{stream}/{self.iteration}/{'' if row is None else row}".encode()
        return torch.Generator().manual_seed(int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1)

    def generators(self, stream: str) -> list[torch.Generator]:
        """One for each of the rows."""
        return [self.generator(stream, row) for row in self.rows]

    def noise(self, stream: str, like: Tensor) -> Tensor:
        """Standard normal noise, of the shape and the device of latents [B, ...] whose samples are the rows."""
        rows = [torch.randn(like.shape[1:], generator=each) for each in self.generators(stream)]
        return torch.stack(rows).to(like.device)

    def uniform(self, stream: str) -> Tensor:
        """[B] numbers in 0..1, one of each ``count``-th of the interval in the whole batch, in any order.

        The draws of a batch are uniform together, with less variance between batches than independent ones.
        """
        generator = self.generator(stream)
        strata = torch.randperm(self.count, generator=generator)
        drawn = (strata + torch.rand(self.count, generator=generator)) / self.count
        return drawn[self.rows.start : self.rows.stop]

    def indices(self, stream: str, span: range) -> Tensor:
        """[B] indices, each uniform in ``span``."""
        return span.start + (self.uniform(stream) * len(span)).long().clamp(max=len(span) - 1)


def parts(rows: range, size: int | None) -> list[range]:
    """Rows in parts of at most so many, one after the other; none is no limit."""
    size = size or max(1, len(rows))
    return [rows[first : first + size] for first in range(0, len(rows), size)]
