"""A schedule as the strings of an expert file's header, and back, exactly: floats as repr, lists as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..schedule.experts import ExpertSchedule, Midpoint, Threshold
from ..schedule.fields import read_field, read_lists, write_lists
from ..schedule.grid import NoiseGrid

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
