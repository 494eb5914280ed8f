"""Fields of a file's header, which are strings: numbers and lists of noise levels read from them, exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def read_field(header: Mapping[str, str], key: str, kind: Any) -> Any:
    """``kind`` of a field. Raises ValueError naming one that is missing or cannot be read."""
    try:
        return kind(header[key])
    except KeyError:
        raise ValueError(f"the header has no {key}.") from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ValueError(f"{key} is {str(header[key])[:80]!r}, which cannot be read.") from None


def read_lists(header: Mapping[str, str], beginning: str) -> dict[int, tuple[float, ...]]:
    """The lists of sigmas by number of steps, the shorter first, of fields named ``beginning`` and that number."""
    keys = [key for key in header if key.startswith(beginning)]
    steps = {_steps(key, beginning): key for key in keys}
    if doubled := {*keys} - {*steps.values()}:
        raise ValueError(f"{', '.join(sorted(doubled))} stands beside another list for as many steps: leave one out.")
    return {number: tuple(read_field(header, key, _floats)) for number, key in sorted(steps.items())}


def write_lists(lists: Mapping[int, list[float] | tuple[float, ...]], beginning: str) -> dict[str, str]:
    """The fields that :func:`read_lists` reads."""
    return {f"{beginning}{steps}": json.dumps(list(values)) for steps, values in lists.items()}


def _steps(key: str, beginning: str) -> int:
    steps = key.removeprefix(beginning)
    if not (steps.isascii() and steps.isdecimal() and len(steps) <= 3):
        raise ValueError(f"{key[:80]} is no list of sigmas: its name must end with a number of steps.")
    return int(steps)


def _floats(text: str) -> list[float]:
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError("it is no list")
    return [float(value) for value in values]
