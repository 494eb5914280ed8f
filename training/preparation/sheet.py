"""A contact sheet: what the prepared clips look like, three frames of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..pictures import PAPER, save_png, sheet
from .clips import Clip

SHOWN = 24
_CELL = (240, 160)
_LETTERS = 110


def chosen(clips: Sequence[Clip]) -> list[Clip]:
    """Those that the sheet shows, evenly from all."""
    step = max(1.0, len(clips) / SHOWN)
    return [clips[int(i * step)] for i in range(min(SHOWN, len(clips)))]


def save_sheet(path: Path, clips: Iterable[tuple[Clip, np.ndarray]], title: str) -> None:
    """Raises OSError with the remedy. No clips make no sheet."""
    rows = [(_label(clip), [_cell(pixels[i]) for i in _three(len(pixels))]) for clip, pixels in clips]
    if rows:
        save_png(path, sheet(title, ["first frame", "middle", "last"], rows))


def _three(frames: int) -> tuple[int, int, int]:
    return 0, frames // 2, frames - 1


def _cell(frame: np.ndarray) -> np.ndarray:
    return np.asarray(ImageOps.pad(Image.fromarray(frame), _CELL, color=PAPER))


def _label(clip: Clip) -> str:
    text = f"{clip.entry.source}, {clip.size}: {clip.entry.caption}"
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 3] + "..."
