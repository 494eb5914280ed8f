"""What is not used of a collection, and why. A bad file is counted and listed; it never ends the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..data.buckets import Size

Reason = Literal[
    "missing", "unreadable", "truncated", "no picture", "no caption", "bad caption", "duplicate", "too short",
    "too small", "aspect", "black", "static",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

_DARK = 24  # of 255: as dark as the letterbox of a film
_BLACK_SHARE = 0.98
_STILL = 0.5  # mean change of a pixel, of 255: less than the grain of a camera on a tripod


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


def check_pixels(frames: np.ndarray, black: bool = True, static: bool = True) -> None:
    """Raises Unfit for uint8 frames [T, H, W, 3] that show nothing, or nothing that moves."""
    coarse = frames[:, ::4, ::4].astype(np.int16)
    if black and (coarse.max(-1) < _DARK).mean() > _BLACK_SHARE:
        raise Unfit("black", "nearly all of it is black")
    if static and len(coarse) > 1 and max(abs(each - coarse[0]).mean() for each in coarse[1:]) < _STILL:
        raise Unfit("static", "nothing moves in it")


def check_shape(width: float, height: float, size: Size, crop: float, enlarge: float) -> None:
    """Raises Unfit for a picture of which more than ``crop`` is cut away to fill a bucket, or enlarged too much."""
    lost = 1 - math.exp(-abs(math.log(width / height / size.aspect)))
    if lost > crop:
        raise Unfit("aspect", f"{lost:.0%} of the picture would be cut away")
    factor = max(size.height / height, size.width / width)
    if factor > enlarge:
        raise Unfit("too small", f"{width:.0f}x{height:.0f} would be enlarged {factor:.1f} times")
