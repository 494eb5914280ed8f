"""Looking at all files before the first is decoded: which can be used, which are twice there, which clips they give."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..data.buckets import Size, nearest
from .clips import Clip, Crop, Mode, begins, frames_at
from .decode import look
from .filters import Dropped, Unfit, check_shape
from .frames import Source
from .manifest import Entry


@dataclass(frozen=True)
class Scanned:
    """A file that can be used, as far as its packets tell. ``digest``: of its bytes."""

    entry: Entry
    source: Source
    digest: str


@dataclass(frozen=True, kw_only=True)
class ClipRules:
    """Which clips are made of a file. ``sizes``: the buckets.

    ``stride``: of mode slide, in frames; none means half a clip. ``count``: of mode uniform. ``max_crop``: the share
    of a picture that may be cut away; ``max_enlarge``: by how much it may be enlarged.
    """

    sizes: Sequence[Size]
    fps: float
    mode: Mode = "head"
    stride: int | None = None
    count: int = 4
    crop: Crop = "cover"
    max_crop: float = 0.4
    max_enlarge: float = 2.0


def scan(entry: Entry) -> Scanned | Dropped:
    """Look at a file, and digest it."""
    try:
        return Scanned(entry, look(entry.path), _digest(entry))
    except Unfit as error:
        return Dropped(entry.source, error.reason, str(error))
    except OSError as error:
        return Dropped(entry.source, "unreadable", f"it cannot be opened ({error.strerror})")


def _digest(entry: Entry) -> str:
    digest = hashlib.sha256()
    with open(entry.path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def plan(scanned: Iterable[Scanned], rules: ClipRules) -> tuple[list[Clip], list[Dropped]]:
    """The clips of all files in their order, and the files that give none."""
    clips: list[Clip] = []
    dropped: list[Dropped] = []
    first: dict[str, str] = {}
    for each in scanned:
        try:
            if before := first.get(each.digest):
                raise Unfit("duplicate", f"it is the same as {before}")
            first[each.digest] = each.entry.source
            clips += _clips(each, rules)
        except Unfit as error:
            dropped.append(Dropped(each.entry.source, error.reason, str(error)))
    return clips, dropped


def _clips(scanned: Scanned, rules: ClipRules) -> list[Clip]:
    source = scanned.source
    frames = frames_at(source, rules.fps)
    sizes = [size for size in rules.sizes if (size.frames == 1) == source.still]
    size = nearest(sizes, frames, source.width / source.height)
    if size is None:
        raise Unfit("too short", _too_short(source, sizes, frames, rules.fps))
    enlarge = 1.0 if rules.crop == "centre" else rules.max_enlarge
    check_shape(source.width, source.height, size, rules.max_crop if rules.crop == "cover" else 1.0, enlarge)
    mode = "head" if source.still else rules.mode
    found = begins(mode, frames, size.frames, rules.stride or max(1, size.frames // 2), rules.count)
    return [Clip(scanned.entry, source, scanned.digest, begin, rules.fps, size, rules.crop) for begin in found]


def _too_short(source: Source, sizes: Sequence[Size], frames: int, fps: float) -> str:
    if source.still:
        return "it is one picture, and no bucket has one frame"
    shortest = min((size.frames for size in sizes), default=0)
    return f"it has {frames} of {shortest} frames at {fps:g} frames a second" if sizes else "all buckets are of images"
