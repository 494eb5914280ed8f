"""Captions of any language on a picture: Pillow's own font has English letters alone, without accents and dashes."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Of Linux, Windows and macOS, by the names under which Pillow finds them; the first that has all letters is taken.
_SYSTEM = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc", "simsun.ttc", "malgun.ttf", "YuGothM.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "Arial Unicode.ttf",
)  # fmt: skip
_DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2022", "-------*")
_NONE = "\U0010fffd"  # no font has it


def lettered(text: str, size: int) -> tuple[str, Font]:
    """A line and the font that has its letters: Pillow's own, else one of the system's. Where none has all of them, the
    letters that Pillow's lacks are written without their accents, or as a question mark."""
    text, own = text.translate(_DASHES), ImageFont.load_default(size)
    if not (lacking := _lacking(text, own)):
        return text, own
    for name in _SYSTEM:
        font = _system(name, size)
        if font is not None and not _lacking(text, font):
            return text, font
    return "".join(_plain(letter, own) if letter in lacking else letter for letter in text), own


@lru_cache
def _system(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _lacking(text: str, font: Font) -> set[str]:
    """The letters that a font would show as an empty box."""
    box = _drawn(_NONE, font)
    return {letter for letter in set(text) if not letter.isspace() and _drawn(letter, font) == box}


def _drawn(letter: str, font: Font) -> bytes:
    return bytes(font.getmask(letter))  # pyright: ignore[reportArgumentType]: a sequence, which its stub does not say


def _plain(letter: str, font: Font) -> str:
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    return "?" if _lacking(plain, font) else plain
