"""The A/B page: two rows side by side without their names, in one file that needs no network."""

from __future__ import annotations

import base64
import json
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dcm_core.files.atomic import atomic_write

from ..errors import ConfigError
from ..pictures import save_mp4, to_pixels
from .report import Report, Row
from .store import digest

_TEMPLATE = Path(__file__).with_name("page.html")
_LEAST = 240  # pixels of the shorter side, to which small clips are enlarged


def save_page(path: Path, report: Report, names: Sequence[str] | None = None) -> None:
    """Write the page for votes between two rows: those of these names, or the first and the last.

    Raises ConfigError where there are no such rows.
    """
    data = page_data(report, names)
    told = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # no text of a caption ends the script
    with atomic_write(path) as file:
        file.write(_TEMPLATE.read_text(encoding="utf-8").replace("DATA", told, 1).encode())


def page_data(report: Report, names: Sequence[str] | None = None) -> dict[str, Any]:
    """What the page shows: a question a clip, each with its two sides in an order of its own.

    Who is who stands in ``key`` alone, in a form that is not read at a glance.
    """
    pair = _pair(report.rows, names)
    order = random.Random(digest([row.name for row in pair] + list(report.captions)))
    lefts = [order.randrange(2) for _ in report.captions]
    questions = [
        {
            "caption": caption,
            "fps": pair[0].frames_per_second[number],
            "sides": [_side(pair[which], number, report) for which in (left, 1 - left)],
        }
        for number, (caption, left) in enumerate(zip(report.captions, lefts, strict=True))
    ]
    key = json.dumps({"names": [row.name for row in pair], "lefts": lefts})
    return {
        "id": digest([key, *(side["video"] for question in questions for side in question["sides"])]),
        "meanings": {name: report.measures[name].meaning for name in pair[0].beside},
        "questions": questions,
        "key": base64.b64encode(key.encode()).decode(),
    }


def _pair(rows: Sequence[Row], names: Sequence[str] | None) -> tuple[Row, Row]:
    if len(rows) < 2:
        raise ConfigError("The page compares two rows, and there is one.")
    known = {row.name: row for row in rows}
    first, second = names or (rows[0].name, rows[-1].name)
    for name in (first, second):
        if name not in known:
            raise ConfigError(f"There is no row {name!r} to vote on; there are {', '.join(map(repr, known))}.")
    if first == second:
        raise ConfigError(f"{first!r} cannot be compared with itself: name two rows.")
    return known[first], known[second]


def _side(row: Row, number: int, report: Report) -> dict[str, Any]:
    found = {name: (values[number], report.measures[name].digits) for name, values in row.beside.items()}
    numbers = {name: f"{value:.{digits}f}" if math.isfinite(value) else "–" for name, (value, digits) in found.items()}
    return {"video": _embedded(row.clips[number], row.frames_per_second[number]), "numbers": numbers}


def _embedded(clip: Tensor, frames_per_second: float) -> str:
    """A clip [3, T, H, W] as the address of an mp4 that is the address."""
    height, width = clip.shape[-2:]
    scale = max(1, -(-_LEAST // min(height, width)))
    pixels = to_pixels(clip, scale)[:, : height * scale // 2 * 2, : width * scale // 2 * 2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        save_mp4(path, pixels, frames_per_second)
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
