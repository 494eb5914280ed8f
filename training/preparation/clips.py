"""Which parts of a file become clips, and making one: frames at even times, cut and scaled to a bucket."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ..data.buckets import Size
from .decode import frames
from .filters import Unfit
from .frames import Frame, Source
from .manifest import Entry

Mode = Literal["head", "chunk", "slide", "uniform"]
Crop = Literal["cover", "centre"]
_ROUNDED = 0.002  # seconds: containers round the times of frames to milliseconds


@dataclass(frozen=True)
class Clip:
    """``digest``: of the file's bytes. ``begin``: the number of its first frame at ``fps`` frames a second."""

    entry: Entry
    source: Source
    digest: str
    begin: int
    fps: float
    size: Size
    crop: Crop

    def name(self, fingerprint: str, unchecked: str = "") -> str:
        """What its latents are called: by content, so that a file may be renamed, and by what they were not checked
        for."""
        fps = "" if self.source.still else f"{self.fps:g}"
        content = self.digest, str(self.begin), fps, str(self.size), self.crop, fingerprint
        more = ["progressive"] * self.source.interlaced + [f"unchecked {unchecked}"] * bool(unchecked)
        return named(*content, *more)


def named(*parts: str) -> str:
    """A short name that follows from all the parts."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def begins(mode: Mode, frames: int, length: int, stride: int, count: int) -> list[int]:
    """First frames of the clips of ``length`` in a file of ``frames``.

    head: one, at the start. chunk: one after the other. slide: every ``stride`` frames. uniform: ``count``, evenly
    spread from the start to the end.
    """
    last = frames - length
    if mode == "head":
        return [0]
    if mode == "uniform":
        return sorted({round(last * i / max(1, count - 1)) for i in range(count)})
    return list(range(0, last + 1, length if mode == "chunk" else stride))


def frames_at(source: Source, fps: float) -> int:
    """How many frames a file gives at ``fps`` frames a second, of which the last begins before its end."""
    return 1 if source.still else max(1, math.ceil((source.seconds - _ROUNDED) * fps))


def scaled(clip: Clip) -> Iterator[Callable[[], np.ndarray]]:
    """Of each frame of a clip what makes its pixels, uint8 [H, W, 3]. Raises Unfit where the file turns out to be
    damaged."""
    times = [(clip.begin + i) / clip.fps for i in range(clip.size.frames)]
    found = frames(clip.entry.path, clip.source, times[0])
    for frame in resampled(found, times, clip.source.gap):
        yield lambda pixels=frame.pixels: fitted(pixels(), clip.source, clip.size, clip.crop)


def make(clip: Clip) -> np.ndarray:
    """The pixels of a clip, uint8 [T, H, W, 3]. Raises Unfit where the file turns out to be damaged."""
    return np.stack([pixels() for pixels in scaled(clip)])


def resampled(found: Iterable[Frame], times: Sequence[float], gap: float) -> Iterator[Frame]:
    """The frame that is on the screen at each of the ascending ``times``. Raises Unfit where the frames end before."""
    shown, wanted = None, iter(times)
    time = next(wanted)
    for frame in found:
        while shown is not None and frame.time > time + _ROUNDED:
            yield shown
            if (time := next(wanted, None)) is None:
                return
        shown = frame
    if shown is None or times[-1] > shown.time + 1.5 * gap + _ROUNDED:
        raise Unfit("truncated", f"its frames end at {shown.time if shown else 0:.1f} of {times[-1]:.1f} seconds")
    yield shown
    for _ in wanted:
        yield shown


def fitted(pixels: np.ndarray, source: Source, size: Size, crop: Crop) -> np.ndarray:
    """A frame [H, W, 3] at the size of a bucket.

    cover: scaled so that it just covers the bucket, and what stands over is cut off on both sides. centre: the
    middle, at the frame's own resolution.
    """
    height, width = pixels.shape[:2]
    # what a picture with other than square pixels measures
    across, down = source.width / width, source.height / height
    scale = max(size.width / source.width, size.height / source.height) if crop == "cover" else 1.0
    cut = (size.width / scale / across, size.height / scale / down)
    left, top = max(0.0, (width - cut[0]) / 2), max(0.0, (height - cut[1]) / 2)
    box = (left, top, min(left + cut[0], width), min(top + cut[1], height))
    if box == (0, 0, size.width, size.height):
        return pixels
    scaled = Image.fromarray(pixels).resize((size.width, size.height), Image.Resampling.BICUBIC, box)
    return np.asarray(scaled)
