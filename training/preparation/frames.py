"""What a decoder tells of a file, and the frames that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .upright import Orientation


@dataclass(frozen=True)
class Source:
    """``width``, ``height``: upright and in square pixels.

    ``gap``: mean seconds between two frames. ``first``: the time stamp of the first, none where the file has none.
    ``orientation``: what makes its pictures upright. ``coded``: the size of a video's pictures as they lie in the file.
    ``interlaced``: are they two moments each?
    """

    width: float
    height: float
    frames: int
    seconds: float
    gap: float
    first: float | None = None
    still: bool = False
    orientation: Orientation = Orientation()
    coded: tuple[int, int] = (0, 0)
    interlaced: bool = False


class Frame(NamedTuple):
    """``time``: seconds after the first frame. ``pixels``: makes uint8 [H, W, 3] of it, upright."""

    time: float
    pixels: Callable[[], np.ndarray]
