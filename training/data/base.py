"""What a method needs of a data set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from torch import Tensor

from ..run.draws import Draws
from .batch import Batch, Conditions


class Data(Protocol):
    """Batches, whose randomness depends on the draws alone, and the way from captions and back to clips."""

    latent_shape: tuple[int, int, int, int]
    batch_size: int
    made_for: str | None  # the backbone whose encoders made the latents and texts, where they are no other's
    told_of_image: frozenset[str]  # what of its conditions is of a first frame: nothing for text to video

    @property
    def content(self) -> str:
        """What it holds, in words and a digest: another one where a resumed run would be given other clips. Empty where
        the settings say it all."""
        ...

    @property
    def prompts(self) -> Sequence[str]:
        """Captions to make paths of the teacher with, where no others are given; empty where there are none."""
        ...

    def batch(self, draws: Draws) -> Batch:
        """The samples of an iteration, for the rows of ``draws``."""
        ...

    def conditions(self, captions: list[str], dropped: Collection[int] = ()) -> Conditions:
        """Of captions, B in number, with the first frames that belong to them.

        ``dropped``: the places of those whose text is left out. Raises ValueError for one that it cannot encode.
        """
        ...

    def frames_of(self, captions: Sequence[str]) -> str:
        """Tells the first frames that captions are told with from others of the same captions; empty without any."""
        ...

    def unconditional(self, conditions: Conditions) -> Conditions:
        """The other side of classifier-free guidance: the same with the text of no caption, or a negative one."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T, H, W] to clips [B, 3, T', H', W'] in -1..1."""
        ...

    def verdict(self, sample: Callable[[list[str]], Tensor]) -> str:
        """What clips of a trained stage show, in whole lines; nothing where the data cannot tell.

        ``sample``: latents [B, C, T, H, W] of these captions.
        """
        ...


def left_out(captions: Sequence[str], dropped: Collection[int]) -> list[str]:
    """Captions, of which those at some places are the empty one."""
    return ["" if place in dropped else caption for place, caption in enumerate(captions)]
