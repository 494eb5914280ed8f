"""Noise levels in the header of a file, whose fields are strings: written and read back exactly, floats as repr, lists
as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from .experts import ExpertSchedule, Midpoint, Threshold
from .grid import NoiseGrid

_LIST = "dcm.sigmas."


def write_schedule(schedule: ExpertSchedule, trained_steps: int | None = None) -> dict[str, str]:
    """Header fields of a schedule.

    ``dcm.rule`` is "official" for a published threshold and "aligned" for the midpoint. ``dcm.sigmas.<N>`` are the
    published lists, or where there are none those of 4 and 8 steps, or that of ``trained_steps`` if an expert was
    trained for so many, for tools that cannot compute them. They leave out the final 0. All sigmas are the backbone's,
    as ComfyUI takes them: those of a "v_prediction" grid are not in 0..1, and its ``dcm.shift`` is that of the
    signal-to-noise ratio.
    """
    fields = {
        "dcm.prediction": schedule.grid.prediction,
        "dcm.grid": str(schedule.grid.points),
        "dcm.shift": repr(schedule.grid.shift),
        "dcm.kappa_index": str(schedule.kappa_index),
        "dcm.kappa_sigma": repr(schedule.kappa_sigma),
        "dcm.switch_sigma": repr(schedule.switch_sigma),
        "dcm.rule": schedule.switch.rule,
    }
    computed: tuple[int, ...] = (4, 8)
    if isinstance(schedule.switch, Threshold):
        fields["dcm.switch_timestep"] = repr(float(schedule.switch.timestep))
        computed = ()
    if trained_steps is not None:
        computed = (trained_steps,)
    lists = {steps: schedule.sigmas(steps)[:-1].tolist() for steps in computed if steps <= schedule.grid.points}
    lists |= {steps: list(values) for steps, values in schedule.lists.items()}
    return fields | write_lists(lists, _LIST)


def read_schedule(header: Mapping[str, str]) -> ExpertSchedule:
    """The schedule of a header; fields that are not its own are ignored.

    Raises ValueError naming the field if one is missing, unreadable, or contradicts the others.
    """
    points, shift = read_field(header, "dcm.grid", int), read_field(header, "dcm.shift", float)
    grid = NoiseGrid(shift, points, read_field(header, "dcm.prediction", str))
    kappa_index = read_field(header, "dcm.kappa_index", int)
    lists = read_lists(header, _LIST)
    rule = header.get("dcm.rule", "aligned")
    if rule == Threshold.rule:
        switch = Threshold(read_field(header, "dcm.switch_timestep", float))
        schedule = ExpertSchedule(grid, kappa_index, switch, lists)
    elif rule == Midpoint.rule:
        schedule = ExpertSchedule(grid, kappa_index)
    else:
        raise ValueError(f'dcm.rule {rule!r} is unknown: it is "aligned" or "official".')
    # What a header says twice must agree: a copy that has drifted would move the boundary unnoticed.
    for key, value in (
        ("dcm.kappa_sigma", schedule.kappa_sigma),
        ("dcm.switch_sigma", schedule.switch_sigma),
    ):
        if key in header and not math.isclose(read_field(header, key, float), value, rel_tol=1e-6, abs_tol=1e-6):
            raise ValueError(f"{key} is {header[key]}, but the other fields give {value!r}.")
    for steps, values in lists.items():
        expected = schedule.sigmas(steps)[:-1]
        if len(values) != steps or not torch.allclose(torch.tensor(values), expected, rtol=1e-6, atol=1e-6):
            raise ValueError(f"{_LIST}{steps} is {list(values)}, but the other fields give {expected.tolist()}.")
    return schedule


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
