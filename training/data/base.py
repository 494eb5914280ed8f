"""What a method needs of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor

from ..config import Section
from .batch import Batch


class Data(Protocol):
    """Batches whose randomness depends on (seed, iteration) alone, and the way from captions and back to clips."""

    Options: ClassVar[type[Section]]  # the model of the data set's own options
    latent_shape: tuple[int, int, int, int]
    batch_size: int

    def batch(self, iteration: int) -> Batch:
        """The batch of an iteration counted from 0."""
        ...

    def text(self, captions: list[str]) -> Tensor:
        """[B, L, D]; the empty caption is the unconditional text. Raises ValueError for a caption it cannot encode."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T, H, W] to clips [B, 3, T', H', W'] in -1..1."""
        ...

    def verdict(self, sample: Callable[[list[str]], Tensor]) -> str:
        """What clips of a trained stage show, in whole lines; nothing where the data cannot tell.

        ``sample``: latents [B, C, T, H, W] of these captions.
        """
        ...
