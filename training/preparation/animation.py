"""Animated WebP, GIF and PNG frame by frame, and still images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .frames import Frame, Source

_FORMATS = ("WEBP", "GIF", "PNG", "JPEG", "BMP", "TIFF")
_SHORTEST, _INSTEAD = 0.011, 0.1  # seconds: what browsers make of a frame that is said to be shown shorter


def look(path: Path) -> Source:
    """What a file shows; its frames are decoded to know their times."""
    with _opened(path) as picture:
        width, height = ImageOps.exif_transpose(picture).size
        count = getattr(picture, "n_frames", 1)
        if count == 1:
            return Source(width, height, frames=1, seconds=0.0, gap=0.0, still=True)
        seconds = 0.0
        for number in range(count):
            picture.seek(number)
            picture.load()
            seconds += _shown(picture)
        return Source(width, height, frames=count, seconds=seconds, gap=seconds / count)


def frames(path: Path) -> Iterator[Frame]:
    with _opened(path) as picture:
        time = 0.0
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            upright = ImageOps.exif_transpose(picture)
            yield Frame(time, _rgb(upright).copy)
            time += _shown(picture)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as picture:
        yield picture


def _shown(picture: Image.Image) -> float:
    seconds = picture.info.get("duration", 0) / 1000
    return seconds if seconds >= _SHORTEST else _INSTEAD


def _rgb(picture: Image.Image) -> np.ndarray:
    """What is transparent is white, as on a page."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))
