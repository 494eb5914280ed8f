"""Videos and picture sheets: mp4 files through imageio-ffmpeg, PNG strips through Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dcm_core.files.atomic import atomic_write

from .lettering import lettered

_SMALL = 12  # letters
INK, PAPER, FAINT = (28, 30, 36), (250, 250, 248), (120, 124, 134)


def to_pixels(clip: Tensor, scale: int = 1) -> np.ndarray:
    """A clip [3, T, H, W] in -1..1 as uint8 frames [T, H * scale, W * scale, 3], enlarged without blur."""
    frames = ((clip.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return frames.repeat(scale, 1).repeat(scale, 2)


def save_mp4(path: Path, frames: np.ndarray, frames_per_second: float) -> None:
    """Write uint8 frames [T, H, W, 3] as an h264 mp4; height and width must be even."""
    height, width = frames.shape[1:3]
    partial = path.with_name(f".partial-{path.name}")
    writer = imageio_ffmpeg.write_frames(
        str(partial),
        (width, height),
        fps=frames_per_second,  # pyright: ignore[reportArgumentType]  it takes any number
        macro_block_size=2,
        quality=9,
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    partial.replace(path)


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a picture whole or not at all."""
    with atomic_write(path) as file:
        picture.save(file, format="PNG", compress_level=1)  # of video frames, 6 takes thrice as long to save a twelfth


def save_jpeg(path: Path, picture: Image.Image) -> None:
    """Write a picture of many photographs whole or not at all: a fifth of a PNG's size, and a tenth of its time."""
    with atomic_write(path) as file:
        picture.save(file, format="JPEG", quality=90)


def strip(clip: Tensor, frames: Sequence[int], scale: int) -> np.ndarray:
    """Chosen frames of a clip [3, T, H, W] side by side, [H * scale, N * W * scale, 3]."""
    pixels = to_pixels(clip, scale)
    return np.concatenate([pixels[i] for i in frames], axis=1)


def sheet(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """A labelled grid of pictures [H, W, 3]: one row label above each row, one heading above each column."""
    margin, gap, line = 24, 12, 20
    height, width = rows[0][1][0].shape[:2]
    total_width = 2 * margin + len(columns) * width + (len(columns) - 1) * gap
    total_height = 2 * margin + 3 * line + len(rows) * (height + line + gap)
    picture = Image.new("RGB", (total_width, total_height), PAPER)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(17), ImageFont.load_default(_SMALL)
    draw.text((margin, margin - 6), title, INK, large)
    top = margin + line + 8
    for i, heading in enumerate(columns):
        draw.text((margin + i * (width + gap), top), heading, INK, small)
    top += line
    for label, cells in rows:
        text, font = lettered(label, _SMALL)
        draw.text((margin, top + 2), text, FAINT, font)
        for i, cell in enumerate(cells):
            picture.paste(Image.fromarray(cell), (margin + i * (width + gap), top + line))
        top += line + height + gap
    return picture
