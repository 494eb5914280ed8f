"""What an evaluation leaves: its numbers as JSON and Markdown, a plot of them, and pictures of the clips."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcm_core import __version__
from dcm_core.files.atomic import atomic_write

from ..pictures import PAPER, save_png, sheet, strip
from .intervals import Estimate
from .measures import Measure
from .plot import plot

_CELL = 72  # pixels of the height of a frame on the sheet, about
_SHOWN_FRAMES = 4


@dataclass(frozen=True)
class Row:
    """One way of making videos. ``facts``: what is known of it before; ``numbers``: what was measured.

    ``clips``: [3, T, H, W] in -1..1, those to be looked at; ``beside`` and ``frames_per_second`` the numbers of each.
    ``seconds``: that a clip took.
    """

    name: str
    facts: Mapping[str, str]
    numbers: Mapping[str, Estimate]
    clips: Sequence[Tensor]
    beside: Mapping[str, Sequence[float]]
    frames_per_second: Sequence[float]
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """``tables``: the names of the measures in each. ``record``: how it was made. ``captions``: of the shown clips."""

    rows: Sequence[Row]
    measures: Mapping[str, Measure]
    tables: Sequence[Sequence[str]]
    captions: Sequence[str]
    record: Mapping[str, Any]

    def markdown(self) -> str:
        """The tables, and below them what the numbers mean."""
        tables = [as_markdown(self._table(names), self._headings(names)) for names in self.tables]
        legend = [f"* {name}: {self.measures[name].meaning}." for names in self.tables for name in self._known(names)]
        made = "; ".join(f"{name} {value}" for name, value in self.record.items() if name != "command")
        return "\n\n".join([*tables, "\n".join(legend), f"`{self.record['command']}`; 95% intervals; {made}."])

    def save(self, folder: Path) -> None:
        """Write ``report.json``, ``report.md``, ``plot.png`` and ``contact_sheet.png``. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"name": row.name, **row.facts, "seconds": row.seconds}
            | {name: asdict(found) for name, found in row.numbers.items()}
            for row in self.rows
        ]
        meanings = {name: self.measures[name].meaning for names in self.tables for name in self._known(names)}
        record = {**self.record, "measures": meanings, "rows": rows}
        for name, text in (("report.json", json.dumps(record, indent=1)), ("report.md", self.markdown())):
            with atomic_write(folder / name) as file:
                file.write((text + "\n").encode())
        names = [name for table in self.tables for name in self._known(table)]
        save_png(folder / "plot.png", plot({row.name: row.numbers for row in self.rows}, names, self.measures))
        save_png(folder / "contact_sheet.png", self.contact_sheet())

    def contact_sheet(self) -> Image.Image:
        """Every prompt a row, every way of sampling a column, four frames each."""
        cells = [[_cell(row.clips[number]) for row in self.rows] for number in range(len(self.captions))]
        height, width = (max(cell.shape[side] for row in cells for cell in row) for side in (0, 1))
        rows = [[_padded(cell, height, width) for cell in row] for row in cells]
        title = f"The same prompts in {len(self.rows)} ways"
        return sheet(title, [_title(row) for row in self.rows], list(zip(self.captions, rows, strict=True)))

    def _known(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if any(name in row.numbers for row in self.rows)]

    def _headings(self, names: Sequence[str]) -> list[str]:
        return ["", *self.rows[0].facts, *self._known(names)]

    def _table(self, names: Sequence[str]) -> list[list[str]]:
        known = self._known(names)
        return [[r.name, *r.facts.values(), *(self.measures[n].text(r.numbers[n]) for n in known)] for r in self.rows]


def record(command: str, **settings: Any) -> dict[str, Any]:
    """How an evaluation was made, for whoever makes it again."""
    packages = {"dcm-video": __version__, **{name: version(name) for name in ("torch", "numpy", "diffusers")}}
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    return {"command": command, **settings, "machine": machine, "python": platform.python_version(), **packages}


def command() -> str:
    """The command that is running, as it was typed."""
    return " ".join(["python", "training/evaluate.py", *sys.argv[1:]])


def as_markdown(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Rows as an aligned Markdown table, which also reads well in a terminal."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        texts = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(texts) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(headings), rule, *map(line, rows)])


def _title(row: Row) -> str:
    return f"{row.name} ({row.facts['calls']} calls)" if "calls" in row.facts else row.name


def _cell(clip: Tensor) -> np.ndarray:
    """Four frames of a clip beside each other, small ones enlarged."""
    frames, height, width = clip.shape[1:]
    chosen = torch.linspace(0, frames - 1, _SHOWN_FRAMES).round().long().tolist()
    scale = max(1, _CELL // min(height, width))
    picture = strip(clip, chosen, scale)
    if min(height, width) <= _CELL:
        return picture
    smaller = (round(picture.shape[1] * _CELL / height), _CELL)
    return np.asarray(Image.fromarray(picture).resize(smaller, Image.Resampling.LANCZOS))


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    margins = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, margins, constant_values=PAPER[0])
