"""Finished videos: folders of files that are measured against a reference folder's files of the same names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..preparation.decode import frames, look
from ..preparation.filters import Unfit
from ..preparation.manifest import PICTURES, VIDEOS
from .measures import Measured, per_clip, summary
from .report import Row

_MOST_FRAMES = 240  # a clip is held in memory whole
_ALIKE = 1.1  # a factor between frames a second that are the same: animations round their times


def compare_folders(folders: Sequence[Path], reference: Path, shown: int) -> tuple[list[Row], list[str]]:
    """A row a folder, the reference first, and the names of the clips that are shown. Raises ConfigError.

    Files called ``NAME-1.mp4``, ``NAME-2.mp4`` are of one prompt.
    """
    wanted = _files(reference)
    if not wanted:
        raise ConfigError(f"{reference} holds no videos.")
    names = list(wanted)
    groups = [re.sub(r"-\d+$", "", name) for name in names]
    if len({folder.name for folder in (reference, *folders)}) <= len(folders):
        raise ConfigError("Two of the folders have the same name, by which they are told apart: rename one.")
    matched = {folder: _matched(folder, wanted) for folder in (reference, *folders)}
    rows: list[Row] = []
    first: Measured | None = None
    for folder, paths in matched.items():
        measured, clips, rates = _measured(paths, matched[reference], shown)
        first = measured if first is None else first
        numbers = summary(measured, first, first.features, groups, len(names))
        beside = {name: values[:shown] for name, values in per_clip(measured, first).items()}
        rows.append(Row(folder.name, {"videos": str(len(names))}, numbers, clips, beside, rates))
    return rows, names[:shown]


def read_clip(path: Path) -> tuple[Tensor, float]:
    """A video as [3, T, H, W] in -1..1 and its frames a second. Raises ConfigError for one that cannot be read."""
    try:
        source = look(path)
        if source.frames > _MOST_FRAMES:
            raise ConfigError(f"{path} has {source.frames} frames; at most {_MOST_FRAMES} can be compared.")
        pixels = [frame.pixels() for frame in frames(path, source, 0.0)]
        if len({each.shape for each in pixels}) > 1:
            raise Unfit("aspect", "its pictures change their size midway")
    except Unfit as error:
        raise ConfigError(f"{path} cannot be compared: {error}.") from None
    return torch.from_numpy(np.stack(pixels)).permute(3, 0, 1, 2).float() / 127.5 - 1, 1 / max(source.gap, 1e-3)


def _measured(paths: Sequence[Path], wanted: Sequence[Path], shown: int) -> tuple[Measured, list[Tensor], list[float]]:
    """The measures of all files, the clips of the first ones, and their frames a second."""
    parts, clips, rates = [], [], []
    for number, (path, beside) in enumerate(zip(paths, wanted, strict=True)):
        clip, rate = read_clip(path)
        other, usual = (clip, rate) if path == beside else read_clip(beside)
        if clip.shape[-2:] != other.shape[-2:]:
            sizes = [f"{each.shape[-1]} x {each.shape[-2]}" for each in (clip, other)]
            raise ConfigError(f"{path} is {sizes[0]} and {beside} {sizes[1]}: videos of one name must be of one size.")
        if clip.shape[1] != other.shape[1]:
            raise ConfigError(
                f"{path} has {clip.shape[1]} frames and {beside} {other.shape[1]}: videos of one name must be of one "
                "length."
            )
        if not 1 / _ALIKE < rate / usual < _ALIKE:
            raise ConfigError(
                f"{path} has {rate:.3g} frames a second and {beside} {usual:.3g}, and motion is measured from frame to "
                "frame: give videos of one name the same number."
            )
        parts.append(Measured.of(clip[None], other[None]))
        if number < shown:
            clips.append(clip)
            rates.append(rate)
    return Measured.joined(parts), clips, rates


def _matched(folder: Path, wanted: dict[str, Path]) -> list[Path]:
    """The files of a folder in the order of the reference's. Raises ConfigError where some are missing."""
    found = _files(folder)
    missing = [name for name in wanted if name not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(f"{folder} has no video called {', '.join(missing[:3])}{more}, as the reference has.")
    return [found[name] for name in wanted]


def _files(folder: Path) -> dict[str, Path]:
    """The videos and animations of a folder by their names without ending.

    Raises ConfigError where two have the same.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}.")
    kinds = VIDEOS | (PICTURES & {".gif", ".webp", ".apng"})
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in kinds:
            continue
        if before := found.get(path.stem):
            raise ConfigError(f"{before} and {path.name} have the same name but for its ending: remove one of them.")
        found[path.stem] = path
    return found
