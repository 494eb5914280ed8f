"""Was a tensor ever written? A download that reserves its place and stops leaves zeros behind."""

from __future__ import annotations

from collections.abc import Iterable

from .stream import TensorSource

_SAMPLE = 4096
_CHUNK = 1 << 20


def all_zero(source: TensorSource, names: Iterable[str]) -> list[str]:
    """Those of the tensors that hold nothing but zeros. ``source`` has to be open.

    The first, middle and last 4 KB are looked at, and the whole of a tensor only where all of them are zero.
    """
    return [name for name in names if _is_zero(source, name)]


def _is_zero(source: TensorSource, name: str) -> bool:
    size = source.rows(name).size
    samples = sorted({0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)})
    if any(source.peek(name, start, _SAMPLE).strip(b"\0") for start in samples):
        return False
    return not any(source.peek(name, start, _CHUNK).strip(b"\0") for start in range(0, size, _CHUNK))
