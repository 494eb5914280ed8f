"""Small video files of every kind that a collection may hold, made on the spot."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def moving(frames: int = 9, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 frames [T, H, W, 3]: a white block that moves right on a coloured ground, which is lighter at the top."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = np.random.default_rng(seed).integers(40, 120, 3)
    clip[:, : height // 4] += 60
    for number, frame in enumerate(clip):
        left = 2 * number % (width - 12)
        frame[height // 2 : height // 2 + 12, left : left + 12] = 250
    return clip


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    rate: int | Fraction = 8,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    transfer: int | None = None,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    stream_options: dict[str, str] | None = None,
) -> Path:
    """``times``: of each frame in milliseconds. ``transfer``: of a BT.2020 picture. ``options``: of the container."""
    with open(path, "wb") as file, av.open(file, "w", path.suffix[1:].replace("mkv", "matroska"), options) as container:
        stream = container.add_stream(codec, rate=rate, options=stream_options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if transfer is not None:
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace, context.color_range = transfer, 9, 9, 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels_ in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_, format="rgb24" if pixels_.dtype == np.uint8 else "rgb48le")
            if transfer is not None:
                frame = frame.reformat(format=pixels, dst_colorspace=9)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, quarters: int) -> Path:
    """Say in an mp4 that it is to be shown turned clockwise, as a phone does that was held upright."""
    across, down = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters % 4]  # where the picture's x axis points to
    matrix = struct.pack(">9i", across << 16, down << 16, 0, -down << 16, across << 16, 0, 0, 0, 1 << 30)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2: version 0 of the track header box
    content[place : place + len(matrix)] = matrix
    path.write_bytes(content)
    return path


def write_sound(path: Path) -> Path:
    """A second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_animation(path: Path, frames: Sequence[np.ndarray], milliseconds: int | list[int] = 125) -> Path:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0, lossless=True)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Keep only the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path
