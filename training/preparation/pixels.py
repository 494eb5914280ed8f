"""The pixels of a clip, or why it is not used: all that are encoded, or those that are shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .clips import Clip, make, scaled
from .filters import Dropped, PixelCheck, Unfit, check_pixels
from .sheet import three


def decoded(clip: Clip, black: bool, static: bool) -> np.ndarray | Dropped:
    """All frames of a clip, uint8 [T, H, W, 3], or why it is not used."""

    def whole() -> np.ndarray:
        pixels = make(clip)
        check_pixels(pixels, black, static)
        return pixels

    return _unless_unfit(clip, whole)


def shown(clip: Clip, black: bool, static: bool) -> np.ndarray | Dropped:
    """First, middle and last frame of a clip, uint8 [3, H, W, 3], or why it is not used, the same as of all of them.

    All are decoded. Scaled, which takes as long, are these three and those that the check needs.
    """

    def sampled() -> np.ndarray:
        check, kept = PixelCheck(clip.size.frames, black, static), {}
        places = three(clip.size.frames)
        for place, make_pixels in enumerate(scaled(clip)):
            if check.sure and place not in places:
                continue
            pixels = make_pixels()
            check.take(pixels)
            if place in places:
                kept[place] = pixels
        check.finish()
        return np.stack([kept[place] for place in places])

    return _unless_unfit(clip, sampled)


def _unless_unfit(clip: Clip, pixels: Callable[[], np.ndarray]) -> np.ndarray | Dropped:
    try:
        return pixels()
    except Unfit as error:
        where = f" at {clip.begin / clip.fps:.1f} s" if clip.begin else ""
        return Dropped(clip.entry.source + where, error.reason, str(error))
    except OSError as error:
        return Dropped(clip.entry.source, "unreadable", f"it cannot be opened ({error.strerror})")
