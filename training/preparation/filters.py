"""What is not used of a collection, and why. A bad file is counted and listed; it never ends the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..data.buckets import Size

Reason = Literal[
    "missing", "unreadable", "truncated", "no picture", "colours", "no caption", "bad caption", "duplicate",
    "too short", "too small", "aspect", "black", "static",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

_DARK = 24  # of 255: as dark as the letterbox of a film
_BRIGHT_SHARE = 0.02  # a clip of which less is brighter is black
_STILL = 0.5  # mean change of a pixel, of 255: less than the grain of a camera on a tripod
_CHANGED, _CHANGED_SHARE = 24, 0.001  # or so many pixels by so much: a bird in the sky, which hardly changes the mean


class Unfit(ValueError):
    """A file or clip that cannot be used."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Dropped:
    """``source``: the file as it is shown; ``detail``: a half sentence."""

    source: str
    reason: Reason
    detail: str


class PixelCheck:
    """Whether ``count`` frames show something, and something that moves.

    It is given them in their order, and the first few usually tell: it need not be given one while it is ``sure``.
    """

    def __init__(self, count: int, black: bool = True, static: bool = True):
        self.count, self._black, self._static = count, black, static and count > 1
        self._bright = 0.0  # share of the pixels that are not dark, summed over the frames
        self._first: np.ndarray | None = None

    @property
    def sure(self) -> bool:
        """Whether nothing is wrong, whatever the frames to come show."""
        return not self._black and not self._static

    def take(self, frame: np.ndarray) -> None:
        """Look at the next frame, uint8 [H, W, 3]."""
        coarse = frame[::4, ::4].astype(np.int16)
        self._bright += (coarse.max(-1) >= _DARK).mean()
        if self._bright >= _BRIGHT_SHARE * self.count:
            self._black = False
        if self._first is None:
            self._first = coarse
        elif self._static:
            change = abs(coarse - self._first)
            self._static = change.mean() < _STILL and (change.max(-1) >= _CHANGED).mean() < _CHANGED_SHARE

    def finish(self) -> None:
        """After the last frame. Raises Unfit where they show nothing, or nothing that moves."""
        if self._black:
            raise Unfit("black", "nearly all of it is black")
        if self._static:
            raise Unfit("static", "nothing moves in it")


def check_pixels(frames: np.ndarray, black: bool = True, static: bool = True) -> None:
    """Raises Unfit for uint8 frames [T, H, W, 3] that show nothing, or nothing that moves."""
    check = PixelCheck(len(frames), black, static)
    for frame in frames:
        if check.sure:
            return
        check.take(frame)
    check.finish()


def check_shape(width: float, height: float, size: Size, crop: float, enlarge: float) -> None:
    """Raises Unfit for a picture of which more than ``crop`` is cut away to fill a bucket, or enlarged too much."""
    lost = 1 - math.exp(-abs(math.log(width / height / size.aspect)))
    if lost > crop:
        raise Unfit("aspect", f"{lost:.0%} of the picture would be cut away")
    factor = max(size.height / height, size.width / width)
    if factor > enlarge:
        raise Unfit("too small", f"{width:.0f}x{height:.0f} would be enlarged {factor:.1f} times")
