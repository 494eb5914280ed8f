"""Was a tensor ever written? A download that reserves its place and stops leaves zeros behind."""

from __future__ import annotations

from collections.abc import Iterable
from io import FileIO

from .stream import TensorSource

_SAMPLE = 4096
_CHUNK = 1 << 20


def all_zero(source: TensorSource, names: Iterable[str]) -> list[str]:
    """Those of the tensors that hold nothing but zeros. ``source`` has to be open.

    The first, middle and last 4 KB are looked at, and the whole of a tensor only where all of them are zero.
    """
    return [name for name, (file, start, stop) in source.ranges(names).items() if _is_zero(file, start, stop)]


def zero_tails(source: TensorSource) -> dict[str, int]:
    """Where the zeros begin that a file ends in: the tensor, and how many of its last bytes are zero.

    One tensor a file, none of a file that ends in anything else. ``source`` has to be open.
    """
    found: dict[str, int] = {}
    passed: set[FileIO] = set()
    for name, (file, start, stop) in reversed(source.ranges(source.infos).items()):
        if file in passed:
            continue
        written = _written(file, start, stop)
        if written == start:
            continue
        passed.add(file)
        if written < stop:
            found[name] = stop - written
    return found


def _written(file: FileIO, start: int, stop: int) -> int:
    """The byte after the last one that is not zero."""
    step = _SAMPLE
    while stop > start:
        first = max(start, stop - step)
        if rest := _read(file, first, stop).rstrip(b"\0"):
            return first + len(rest)
        stop, step = first, _CHUNK
    return start


def _is_zero(file: FileIO, start: int, stop: int) -> bool:
    middle, end = (start + stop - _SAMPLE) // 2, stop - _SAMPLE
    samples = sorted({max(start, first) for first in (start, middle, end)})
    if any(_read(file, first, min(first + _SAMPLE, stop)).strip(b"\0") for first in samples):
        return False
    return not any(_read(file, first, min(first + _CHUNK, stop)).strip(b"\0") for first in range(start, stop, _CHUNK))


def _read(file: FileIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
