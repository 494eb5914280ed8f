"""Frames of any file in the order of their times: videos by FFmpeg, animations and still images by Pillow.

Only one frame is held at a time, and only those that are asked for become pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from . import animation
from .colours import check_colours, rgb
from .filters import Unfit
from .frames import Frame, Source
from .interlaced import progressive
from .manifest import PICTURES
from .upright import Orientation, orientation

# A file is given to FFmpeg open: its name is never read as an address or a pattern, and it may open no other.
_OPTIONS = {"protocol_whitelist": "none"}
_RESHAPED = 0.02  # by how much the shape of a frame may differ from the first one's: by the rounding of its size


def look(path: Path) -> Source:
    """What a file shows, from its packets: one frame alone is decoded. Raises Unfit."""
    with _bad_files_named():
        return animation.look(path) if path.suffix.lower() in PICTURES else _look(path)


def frames(path: Path, source: Source, begin: float) -> Iterator[Frame]:
    """The frames from ``begin`` seconds after the first on, and perhaps some before. Raises Unfit."""
    with _bad_files_named():
        if path.suffix.lower() in PICTURES:
            yield from animation.frames(path)
            return
        found = _frames(path, source, begin)
        first = next(found, None)
        if first is not None and first.time > begin:  # the index of the file led too far
            found, first = _frames(path, source, 0.0), None
        if first is not None:
            yield first
        yield from found


@contextmanager
def _bad_files_named() -> Iterator[None]:
    """Whatever a damaged file makes of its decoder is one thing to the caller."""
    try:
        yield
    except (Unfit, FileNotFoundError):
        raise
    except Exception as error:  # decoders raise nearly everything on hostile bytes
        raise Unfit(
            "unreadable", f"it cannot be decoded ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error


@dataclass(frozen=True)
class _Opened:
    container: Any
    stream: Any


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    with open(path, "rb") as file, av.open(file, options=_OPTIONS, metadata_errors="replace") as container:
        stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
        if stream is None:
            others = (s.type for s in container.streams if s.type != "video")
            raise Unfit("no picture", f"it has no video, only {', '.join(others) or 'a cover'}")
        stream.codec_context.thread_count = 1  # the files are what is shared among cores
        yield _Opened(container, stream)


def _look(path: Path) -> Source:
    frame, times, count, there = None, [float("inf"), float("-inf")], 0, 0
    with _opened(path) as opened:
        stream, promised = opened.stream, _promised(opened)
        for packet in opened.container.demux(stream):
            if frame is None:
                frame = next(iter(packet.decode()), None)
            there += packet.size > 0
            if not packet.size or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise Unfit("truncated", f"it ends within frame {count + 1}")
            count += 1
            if packet.pts is not None:
                time = float(packet.pts * packet.time_base)
                times = [min(times[0], time), max(times[1], time)]
        if promised > there:
            raise Unfit("truncated", f"{there} of its {promised} frames are there")
        if frame is None:
            raise Unfit("unreadable", "it has no frame")
        check_colours(frame, stream.codec_context)
        rate = float(stream.average_rate or stream.base_rate or 25)
        timed = count > 1 and times[1] > times[0]
        gap = (times[1] - times[0]) / (count - 1) if timed else 1 / rate
        width = frame.width * float(stream.sample_aspect_ratio or 1)
        shown = orientation(frame)
        size = (float(frame.height), width) if shown.quarters % 2 else (width, float(frame.height))
        first = times[0] if timed else None
        return Source(
            *size, frames=count, seconds=count * gap, gap=gap, first=first, orientation=shown,
            coded=(frame.width, frame.height), interlaced=frame.interlaced_frame,
        )  # fmt: skip


def _frames(path: Path, source: Source, begin: float) -> Iterator[Frame]:
    with _opened(path) as opened:
        container, stream = opened.container, opened.stream
        if begin > 0 and source.first is not None:
            with suppress(av.FFmpegError):  # what cannot be wound forward is read from its start
                container.seek(int((source.first + begin) / stream.time_base), stream=stream)
        for number, frame in enumerate(progressive(_sound(container.decode(stream), source))):
            time = number * source.gap if source.first is None else frame.time - source.first
            yield Frame(time, partial(_pixels, frame, stream.codec_context, source.orientation))


def _sound(found: Iterable[Any], source: Source) -> Iterator[Any]:
    """Raises Unfit where a frame is damaged, or where the pictures change to another shape, as in a recording whose
    camera was turned: none of them says any more how it is to be shown."""
    width, height = source.coded
    for frame in found:
        if frame.is_corrupt:
            raise Unfit("unreadable", "a frame is damaged")
        if abs(frame.width * height / (frame.height * width) - 1) > _RESHAPED:
            raise Unfit("aspect", f"its pictures change from {width}x{height} to {frame.width}x{frame.height}")
        yield frame


def _pixels(frame: Any, codec: Any, shown: Orientation) -> np.ndarray:
    return shown.upright(rgb(frame, codec))


def _promised(opened: _Opened) -> int:
    """How many frames the head of a file tells of, or 0. An edit list leaves some of an mp4's out, as of a video that
    was cut on a phone."""
    listed = getattr(opened.stream, "index_entries", ())  # PyAV 14 has none
    return len(listed) if listed and "mp4" in opened.container.format.name else opened.stream.frames
