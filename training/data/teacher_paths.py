"""The ends of the teacher's own paths as a data set: clips made of prompts alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..run.draws import Draws
from .base import Data
from .batch import Batch, Conditions
from .paths import PathCache


class TeacherPaths:
    """Batches of paths. Captions are encoded, and latents decoded, by the data set that the paths were made for."""

    def __init__(self, data: Data, cache: PathCache, text_dropout: float, count: int, rest: PathCache | None = None):
        """``count``: how many paths, the first of the cache, in its whole batches. ``rest``: the paths that go on from
        those in the cache, if those do not end as clips.

        Raises ConfigError where paths are missing, or were made for latents of another shape.
        """
        self.ends = cache if rest is None else rest
        batches = -(-count // cache.plan.batch)
        for each in (cache, self.ends):
            each.require(range(batches))
        self.used = range(batches * cache.plan.batch)
        if list(data.latent_shape) != cache.plan.recipe.shape:
            raise ConfigError(
                f"The paths in {cache.folder} have latents of shape {cache.plan.recipe.shape}, and the data set's are "
                f"{list(data.latent_shape)}. Name another folder."
            )
        self.inner, self.cache, self.text_dropout = data, cache, text_dropout
        self.latent_shape, self.batch_size, self.made_for = data.latent_shape, data.batch_size, data.made_for
        self.told_of_image, self.stands_in = data.told_of_image, getattr(data, "stands_in", False)

    @property
    def content(self) -> str:
        return f"{len(self.used)} paths ({self.ends.plan.name})"

    @property
    def prompts(self) -> Sequence[str]:
        return self.cache.plan.prompts

    def numbers(self, draws: Draws) -> list[int]:
        """Which paths an iteration trains on."""
        return draws.indices("path", self.used).tolist()

    def batch(self, draws: Draws) -> Batch:
        """The clips at the ends of an iteration's paths."""
        numbers = self.numbers(draws)
        drawn = [float(torch.rand((), generator=each)) for each in draws.generators("dropout")]
        dropped = [place for place, value in enumerate(drawn) if value < self.text_dropout]
        conditions = self.conditions(self.cache.plan.captions(numbers), dropped)
        return Batch(self.ends.states(numbers, [-1])[:, 0], conditions)

    def conditions(self, captions: list[str], dropped: Collection[int] = ()) -> Conditions:
        return self.inner.conditions(captions, dropped)

    def frames_of(self, captions: Sequence[str]) -> str:
        return self.inner.frames_of(captions)

    def unconditional(self, conditions: Conditions) -> Conditions:
        return self.inner.unconditional(conditions)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents)

    def verdict(self, sample: Callable[[list[str]], Tensor]) -> str:
        return self.inner.verdict(sample)
