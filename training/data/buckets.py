"""Buckets: the sizes to which clips are brought, so that those of one batch are of one shape.

What a backbone can take at all is a ``SizeRule``, which its encoder and its adapter carry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_ASPECTS = (1 / 2, 9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9, 2.0)  # width over height
_APART = 1.1  # aspects nearer to each other than this factor share a bucket


class Size(NamedTuple):
    """Of a clip in pixels."""

    frames: int
    height: int
    width: int

    @property
    def aspect(self) -> float:
        return self.width / self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """Which clips a backbone takes, and the latents that its autoencoder makes of them.

    ``usual``, ``fps``: the size and frames a second that it was trained at. ``only``: it takes no other size.
    ``channels``: of the latents. ``scale``, ``patch``: pixels to a latent, and latents to a token, along an edge.
    ``stride``: frames to a latent. ``lead``: 1 where the first frame has a latent of its own (4k + 1 frames), else 0.
    ``group``: latents in time to a token: 2 where their number has to be even.
    """

    usual: Size
    fps: float
    channels: int = 16
    scale: int = 8
    patch: int = 2
    stride: int = 4
    lead: int = 1
    group: int = 1
    only: bool = False

    @property
    def multiple(self) -> int:
        """What height and width are multiples of."""
        return self.scale * self.patch

    def allows(self, size: Size) -> bool:
        if self.only:
            return size == self.usual
        whole = size.height % self.multiple == size.width % self.multiple == 0
        return min(size) > 0 and whole and self.frames(size.frames) == size.frames

    def frames(self, most: int) -> int:
        """The largest number of frames up to ``most`` that it takes, or 0."""
        if self.only:
            return self.usual.frames if most >= self.usual.frames else 0
        latents = (most - self.lead) // self.stride + self.lead
        latents -= latents % self.group
        return max(0, (latents - self.lead) * self.stride + self.lead) if latents > 0 else 0

    def latent_shape(self, size: Size) -> tuple[int, int, int, int]:
        """[C, T, H, W]."""
        time = (size.frames - self.lead) // self.stride + self.lead
        return self.channels, time, size.height // self.scale, size.width // self.scale

    def tokens(self, size: Size) -> int:
        """How long the sequence is on which the network's attention works."""
        _, time, height, width = self.latent_shape(size)
        return time * height * width // (self.group * self.patch**2)


def buckets(rule: SizeRule, frames: Iterable[int], height: int, width: int, tokens: int) -> list[Size]:
    """Sizes of about the area of ``width`` x ``height``, in several aspects, for each number of frames.

    Where so many frames would be more than ``tokens`` tokens, the area is smaller. The aspect of width x height and
    its upright counterpart are among them exactly.
    """
    if rule.only:
        return [rule.usual]
    found: dict[Size, None] = {}
    for count in sorted(set(frames), reverse=True):
        edge = rule.multiple
        most = tokens // rule.tokens(Size(count, edge, edge)) * edge**2
        area = min(height * width, most)
        found |= dict.fromkeys(_of_area(count, area, aspect, edge) for aspect in _aspects(width / height))
    return [size for size in found if min(size) > 0]


def _aspects(given: float) -> list[float]:
    own = list(dict.fromkeys((given, 1 / given)))
    return own + [each for each in _ASPECTS if all(abs(math.log(each / one)) > math.log(_APART) for one in own)]


def _of_area(frames: int, area: int, aspect: float, edge: int) -> Size:
    """The size of that aspect with the largest area up to ``area``."""
    height = round(math.sqrt(area / aspect) / edge) * edge or edge
    width = min(round(height * aspect / edge), area // (height * edge)) * edge
    return Size(frames, height, width)


def usual(found: Sequence[T]) -> T:
    """The bucket of most clips, of which each has one; among several of them the first."""
    return max(dict.fromkeys(found), key=found.count)


def nearest(sizes: Sequence[Size], frames: int, aspect: float) -> Size | None:
    """The bucket with the most frames up to ``frames``, and among those the one of the nearest aspect."""
    fitting = [size for size in sizes if size.frames <= frames]
    longest = max((size.frames for size in fitting), default=0)
    same = [size for size in fitting if size.frames == longest]
    return min(same, key=lambda size: abs(math.log(size.aspect / aspect)), default=None)
