"""The batch of the next iteration, read or rendered in a thread while this one is trained on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..run.draws import Draws
from .base import Data
from .batch import Batch


class ReadAhead:
    """A data set like the one below it, which begins with the next batch when it hands one out.

    A batch depends on its draws alone, so it does not matter who makes it, and when.
    """

    def __init__(self, data: Data):
        self.data = data
        self.reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self.awaited: tuple[Draws, Future[Batch]] | None = None
        self.looked: Draws | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def batch(self, draws: Draws) -> Batch:
        """The samples of an iteration; raises what the data set below does."""
        if self.awaited and self.awaited[0] == draws:
            batch = self.awaited[1].result()
        else:
            batch, before, self.looked = self.data.batch(draws), self.looked, draws
            if self.awaited and not (before and draws == _following(before)):
                return batch  # a look at another iteration; two that follow each other are a training that stepped back
        following = _following(draws)
        self.awaited, self.looked = (following, self.reader.submit(self.data.batch, following)), None
        return batch


def _following(draws: Draws) -> Draws:
    return replace(draws, iteration=draws.iteration + 1)
