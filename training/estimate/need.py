"""What a stage needs, in numbers: of all GPUs together, and of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

Latents = tuple[int, int, int, int]


class Clip(NamedTuple):
    """What it is called, its latents [C, T, H, W], and how many tokens they are."""

    size: str
    latents: Latents
    tokens: int


@dataclass(frozen=True)
class Need:
    """Of one stage. Memory in bytes, of all GPUs but for ``activations`` and ``gathered``, which each of them has;
    ``flop`` of an iteration of ``batch`` clips, of which a GPU computes ``at_once``; ``call`` of the teacher's call for
    one.

    ``trained``, ``judging``: weights of the student, which are split among ``shards`` GPUs, and of a discriminator,
    which each has whole. ``copies``: what the optimizer's step makes when the ``activations`` are gone. ``gathered``:
    of split networks what is whole at a time.
    """

    clip: Clip
    batch: int
    at_once: int
    trained: int
    judging: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    copies: int
    flop: float
    call: float
    gathered: int = 0
    gpus: int = 1
    shards: int = 1

    @property
    def memory(self) -> int:
        held = self.weights + self.gradients + self.optimizer + self.averages + self.gathered
        return held + max(self.activations, self.copies)

    def of_one(self) -> Need:
        """What each GPU has of it."""

        def part(size: int, judging: int = 0) -> int:
            return (size - judging) // self.shards + judging

        return replace(
            self,
            weights=part(self.weights, 4 * self.judging),
            gradients=part(self.gradients, 4 * self.judging),
            optimizer=part(self.optimizer, 8 * self.judging),
            averages=part(self.averages),
            copies=part(self.copies),
        )
