"""Which files there are and what their captions say: a folder, or a table of paths and captions."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .filters import Dropped

PICTURES = {".webp", ".gif", ".png", ".apng", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf",
          ".flv", ".f4v", ".ogv", ".3gp", ".vob", ".mxf", ".dv", ".qt", ".m2v", ".y4m"}  # fmt: skip
TABLES = (".csv", ".jsonl", ".parquet")
_PATHS = ("file_name", "path", "video", "file")
_CAPTIONS = ("caption", "text", "prompt", "cap")


@dataclass(frozen=True)
class Entry:
    """A file to use. ``source``: its name as it is shown and kept, relative to the collection."""

    path: Path
    source: str
    caption: str


def read_collection(data: Path, caption: str = "") -> tuple[list[Entry], list[Dropped]]:
    """The files of a folder or table in a fixed order, and those without a caption.

    ``caption``: of those that have none. A folder that holds ``metadata.csv``, ``.jsonl`` or ``.parquet`` is that
    table. Raises ConfigError where there is nothing to read.
    """
    if not data.exists():
        raise ConfigError(f"There is no folder or table at {shown(data)}.")
    table, base = (_table_in(data), data) if data.is_dir() else (data, data.parent)
    entries, dropped = [], []
    found = list(_of_table(table, base)) if table else _of_folder(data, dropped)
    for path, text in found:
        source = shown(os.path.relpath(path, base) if path.is_relative_to(base) else path)
        if not path.is_file():
            dropped.append(Dropped(source, "missing", f"there is no file {shown(path)}"))
        elif text is None:
            dropped.append(Dropped(source, "bad caption", "its caption is no text in UTF-8"))
        elif not (text or caption):
            dropped.append(Dropped(source, "no caption", "it has no caption, or an empty one"))
        else:
            entries.append(Entry(path, source, text or caption))
    if table and data.is_dir():
        named = {os.path.realpath(path) for path, _ in found}
        others = [path for path, _ in _of_folder(data, dropped) if os.path.realpath(path) not in named]
        told = f"there is no row of it in {table.name}"
        dropped += [Dropped(shown(os.path.relpath(path, data)), "no caption", told) for path in others]
    if not entries and not dropped:
        raise ConfigError(f"{shown(data)} holds no videos or images; known are {', '.join(sorted(VIDEOS | PICTURES))}.")
    return entries, dropped


def shown(name: str | os.PathLike) -> str:
    """A file name that can be printed and kept: what is no text in it, such as a line break, is escaped."""
    text = os.fspath(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _table_in(folder: Path) -> Path | None:
    """The table that describes a folder, if it has one. Raises ConfigError where it has several."""
    tables = [path for kind in TABLES if (path := folder / f"metadata{kind}").is_file()]
    if len(tables) > 1:
        told = " and ".join(path.name for path in tables)
        raise ConfigError(f"{shown(folder)} has {told}: name one of them with --data, or put their rows into one.")
    return tables[0] if tables else None


def _of_folder(folder: Path, dropped: list[Dropped]) -> Iterator[tuple[Path, str | None]]:
    """Its files, those in linked folders too, each folder once. What cannot be opened is added to ``dropped``."""

    def closed(error: OSError) -> None:
        source = shown(os.path.relpath(error.filename, folder))
        dropped.append(Dropped(source, "unreadable", f"it cannot be opened ({error.strerror})"))

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        if (place := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted((each for each in folders if not each.startswith(".")), key=os.fsencode)
        if {"shards", "summary.json"} <= {*folders, *names}:  # a cache, whose contact sheet is no image to train on
            folders.clear()
            continue
        for name in sorted(names, key=os.fsencode):
            path = Path(parent, name)
            if path.suffix.lower() in VIDEOS | PICTURES and not name.startswith("."):
                yield path, _beside(path)


def _beside(path: Path) -> str | None:
    """The text of ``clip.mp4.txt``, which is of this file alone, or ``clip.txt``; nothing where neither is there, None
    where it is no text."""
    for beside in (path.with_name(path.name + ".txt"), path.with_suffix(".txt")):
        if beside.is_file():
            try:
                return _tidy(beside.read_text("utf-8-sig"))
            except UnicodeDecodeError:
                return None
    return ""


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _caption(value: Any) -> str | None:
    """What a cell of a table says, alone or as a list of one; nothing for an empty cell, None where it is no text."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value is None or value != value:  # not a number is how some tables write an empty cell
        return ""
    return _tidy(value) if isinstance(value, str) else None


def _of_table(table: Path, base: Path) -> Iterator[tuple[Path, str | None]]:
    kind = table.suffix.lower()
    if kind not in TABLES:
        raise ConfigError(f"{shown(table)} is no table of videos; use a folder, or a file of {', '.join(TABLES)}.")
    try:
        rows = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[kind](table)
        yield from _located(rows, table, base)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown(table)} is not UTF-8 text ({error}); save it as UTF-8.") from None


def _located(rows: Iterable[Any], table: Path, base: Path) -> Iterator[tuple[Path, str | None]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ConfigError(f"{shown(table)}, row {number}: it must be a mapping such as {_EXAMPLE}.")
        path = next((row[key] for key in _PATHS if row.get(key)), None)
        if path is None:
            raise ConfigError(f"{shown(table)}, row {number}: it needs one of {', '.join(_PATHS)}, as in {_EXAMPLE}.")
        yield base / str(path), _caption(next((row[key] for key in _CAPTIONS if row.get(key)), None))


_EXAMPLE = '{"path": "clip.mp4", "caption": "a red kite over the sea"}'


def _csv(table: Path) -> Iterator[Any]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        number = 0
        try:
            for number, row in enumerate(csv.DictReader(file, strict=True), 1):
                if any(row.get(None, ())):  # what stands behind the last column, as of a caption with a comma in it
                    raise ConfigError(
                        f"{shown(table)}, row {number}: it has more cells than there are columns. Put captions with "
                        'commas in them in "quotes".'
                    )
                yield row
        except csv.Error as error:  # else a quote that is not closed makes one caption of all rows behind it
            raise ConfigError(
                f"{shown(table)}, row {number + 1}: {error}. A cell in quotes ends with one, and has each quote "
                'within it twice: "a ""red"" kite".'
            ) from None


def _jsonl(table: Path) -> Iterator[Any]:
    with open(table, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ConfigError(f"{shown(table)}, line {number} is not JSON: {error}") from None


def _parquet(table: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise ConfigError(
            f"{shown(table)} needs the package pyarrow: pip install pyarrow, or save the table as CSV or JSONL."
        ) from None
    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise ConfigError(f"{shown(table)} is no parquet file: {error}") from None
