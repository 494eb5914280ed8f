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


def write_interlaced(path: Path, moments: Sequence[np.ndarray]) -> Path:
    """Frames of two moments each, one after the other in every other line, as of a broadcast."""
    woven = [first.copy() for first in moments[::2]]
    for frame, second in zip(woven, moments[1::2], strict=True):
        frame[1::2] = second[1::2]
    told = {"flags": "+ildct+ilme", "field_order": "tt", "b": "4M"}
    return write_video(path, woven, codec="mpeg2video", stream_options=told)


def write_joined(path: Path, *parts: Sequence[np.ndarray]) -> Path:
    """One stream of several sizes, as of a camera that was turned while it recorded."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width = parts[0][0].shape[:2]
        number = 0
        for frames in parts:
            context = av.CodecContext.create("libx264", "w")
            context.height, context.width = frames[0].shape[:2]
            context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 8), 8
            context.options = {"bf": "0", "x264-params": "repeat-headers=1"}
            for pixels in [*frames, None]:
                frame = None if pixels is None else av.VideoFrame.from_ndarray(pixels)
                if frame is not None:
                    frame.pts, frame.time_base, number = number, Fraction(1, 8), number + 1
                for packet in context.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    return path


def turn(path: Path, quarters: int) -> Path:
    """Say in an mp4 that it is to be shown turned clockwise, as a phone does that was held upright."""
    across, down = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters % 4]  # where the picture's x axis points to
    return show_by(path, across, down, -down, across)


def show_by(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Say in an mp4 that a point (x, y) of it is to be shown at (ax + cy, bx + dy)."""
    a, b, c, d = (round(each * 65536) for each in (a, b, c, d))
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2: version 0 of the track header box
    content[place : place + len(matrix)] = matrix
    path.write_bytes(content)
    return path


def cut_by_edit_list(path: Path, seconds: float) -> Path:
    """An mp4 that is to be shown without its first seconds, which it still holds, as of a video cut on a phone."""
    shorter = path.with_name(f"cut-{path.name}")
    with (
        av.open(str(path)) as whole,
        av.open(str(shorter), "w", options={"avoid_negative_ts": "disabled"}) as container,
    ):
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(whole.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                packet.pts -= round(seconds / packet.time_base)
                packet.dts -= round(seconds / packet.time_base)
                packet.stream = stream
                container.mux(packet)
    return shorter


def write_coded(path: Path, planes: Sequence[np.ndarray], pixels: str, codec: str = "libx264", **told: int) -> Path:
    """Nine equal frames of these planes, Y, U and V. ``told``: what the file says of its colours, codes of H.273."""
    height, width = planes[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"crf": "1", "x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for name, code in told.items():
            setattr(stream.codec_context, name, code)
        frame = av.VideoFrame(width, height, pixels)
        for plane, values in zip(frame.planes, planes, strict=True):
            rows = np.zeros((values.shape[0], plane.line_size // values.itemsize), values.dtype)
            rows[:, : values.shape[1]] = values
            plane.update(rows)
        for number in range(9):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
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


def write_collection(folder: Path) -> Path:
    """Eight files that give clips, and one for each reason to drop one."""
    folder.mkdir()

    def captioned(name: str, caption: str | None = ""):
        if caption is not None:
            (folder / name).with_suffix(".txt").write_text(caption or f"this is {name}")
        return folder / name

    write_video(captioned("plain.mp4"), moving(20, seed=1))
    turn(write_video(captioned("phone.mp4"), moving(9, seed=2)), 1)
    write_video(captioned("ten.mp4"), moving(9, seed=3), codec="libx265", pixels="yuv420p10le")
    write_video(captioned("fast.mkv", "this is plain.mp4"), moving(40, seed=4), 30)
    write_animation(captioned("a.webp"), moving(9, seed=5))
    write_animation(captioned("b\n.gif"), moving(9, seed=6), 130)
    Image.fromarray(moving(1, seed=7)[0]).save(captioned("still.png"))
    Image.fromarray(moving(1, 64, 48, seed=8)[0]).save(captioned("upright.jpg"))

    write_video(captioned("uncaptioned.mp4", None), moving(9, seed=9))
    write_video(captioned("unspeakable.mp4", "unspeakable"), moving(9, seed=10))
    (captioned("copy.mp4")).write_bytes((folder / "plain.mp4").read_bytes())
    write_video(captioned("short.mp4"), moving(4, seed=11))
    write_video(captioned("tiny.mp4"), moving(9, 14, 20))
    write_video(captioned("wide.mp4"), moving(9, 32, 256))
    write_video(captioned("black.mp4"), moving(9) // 16)
    write_video(captioned("static.mp4"), moving(1).repeat(9, 0))
    write_sound(captioned("song.mp4"))
    captioned("text.mp4").write_text("this is no video")
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    truncate(write_video(captioned("cut.mp4"), noise, options={"movflags": "faststart"}))
    captioned("latin.mp4").write_bytes((folder / "phone.mp4").read_bytes())
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    return folder
