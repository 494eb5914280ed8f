"""A contact sheet: what the prepared clips look like, three frames of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..pictures import PAPER, save_jpeg, sheet
from .clips import Clip

_SHOWN = 24
_CELL = (240, 160)
_LETTERS = 110


class ContactSheet:
    """``wanted``: the clips that it shows, evenly from all."""

    def __init__(self, clips: Sequence[Clip]):
        step = max(1.0, len(clips) / _SHOWN)
        self.wanted = [clips[int(i * step)] for i in range(min(_SHOWN, len(clips)))]
        self._cells: dict[Clip, list[np.ndarray]] = {}

    def take(self, clip: Clip, pixels: np.ndarray) -> None:
        """Keep small pictures of a clip, if it is wanted, from all its frames or the three that are shown."""
        if clip in self.wanted:
            self._cells[clip] = [_cell(pixels[i]) for i in three(len(pixels))]

    def lacks(self, clips: Collection[Clip]) -> list[Clip]:
        """Those of the clips that are wanted and were not taken."""
        return [clip for clip in self.wanted if clip in clips and clip not in self._cells]

    def save(self, path: Path, total: int) -> None:
        """Raises OSError with the remedy. No clips make no sheet."""
        rows = [(_label(clip), self._cells[clip]) for clip in self.wanted if clip in self._cells]
        if rows:
            save_jpeg(path, sheet(f"{len(rows)} of {total} clips", ["first frame", "middle", "last"], rows))


def three(frames: int) -> tuple[int, int, int]:
    """First, middle and last of so many frames; of three, these."""
    return 0, frames // 2, frames - 1


def _cell(frame: np.ndarray) -> np.ndarray:
    return np.asarray(ImageOps.pad(Image.fromarray(frame), _CELL, color=PAPER, method=Image.Resampling.BILINEAR))


def _label(clip: Clip) -> str:
    text = f"{clip.entry.source}, {clip.size}: {clip.entry.caption}"
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 3] + "..."
