"""Which clips an iteration trains on: a function of (seed, iteration), so going on needs nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch

from ..run.draws import Draws


class BatchPlan:
    """Batches of clips of one bucket each; every clip once an epoch.

    A bucket's last batch is filled up with clips of the same bucket, which then come twice.
    ``buckets``: of each clip. ``epoch``: how many batches there are in one.
    """

    def __init__(self, buckets: Sequence[Hashable], batch_size: int, seed: int):
        self.batch_size, self.seed = batch_size, seed
        self._clips: dict[Hashable, list[int]] = {}
        for number, bucket in enumerate(buckets):
            self._clips.setdefault(bucket, []).append(number)
        self.epoch = sum(-(-len(clips) // batch_size) for clips in self._clips.values())
        self._batches = lru_cache(1)(self._of_epoch)

    def batch(self, iteration: int) -> list[int]:
        """The clips of an iteration counted from 0, as many as a batch holds."""
        return self._batches(iteration // self.epoch)[iteration % self.epoch]

    def _of_epoch(self, epoch: int) -> list[list[int]]:
        generator = Draws.of(self.seed, epoch, 1).generator("epoch")
        batches = []
        for clips in self._clips.values():
            order = [clips[i] for i in torch.randperm(len(clips), generator=generator).tolist()]
            for start in range(0, len(order), self.batch_size):
                places = range(start, start + self.batch_size)
                batches.append([order[place % len(order)] for place in places])
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
