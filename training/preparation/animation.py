"""Animated WebP, GIF and PNG frame by frame, and still images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from .filters import Unfit
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
    """In the colours of sRGB. What is transparent is white, as on a page."""
    if picture.mode == "F":
        raise Unfit("colours", "its pixels are numbers of which it does not say what is white")
    if picture.mode.startswith("I"):  # of 16 bits, of which Pillow would keep what is below 256 and call the rest white
        picture = Image.fromarray((np.asarray(picture).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        white.info, picture = picture.info, white
    return np.asarray(_standard(picture))


def _standard(picture: Image.Image) -> Image.Image:
    """By its colour profile, if it has one that can be read."""
    if profile := picture.info.get("icc_profile"):
        plain = picture if picture.mode in ("L", "CMYK") else picture.convert("RGB")
        with suppress(ImageCms.PyCMSError, OSError):  # a profile that is damaged counts for nothing
            source, standard = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            if converted := ImageCms.profileToProfile(plain, source, standard, outputMode="RGB"):
                return converted
    return picture.convert("RGB")
