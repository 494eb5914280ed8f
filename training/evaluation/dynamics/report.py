"""The figures of the training dynamics, the numbers behind them, and what they say in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcm_core.files.atomic import atomic_write
from dcm_core.schedule.experts import ExpertSchedule

from ...charts import Curve, Mark, bars, curves, matrix
from ...pictures import save_png
from .kappa import Suggestion
from .measure import Measured

RAW = "dynamics.json"
_FIGURES = (
    ("loss", "Consistency loss of one network over all noise levels"),
    ("gradient", "Gradient norm of one network over all noise levels"),
    ("jump_error", "Jump error to the next level (0: on the teacher's path, 1: as without a jump)"),
    ("jump_error_to_end", "Jump error to the last level"),
)


def write(
    folder: Path,
    schedule: ExpertSchedule,
    index: Sequence[int],
    found: Sequence[Measured],
    suggestion: Suggestion,
    about: Mapping[str, Any],
) -> None:
    """Write a figure for each measure, and all numbers. ``about``: what else to keep beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    sigmas = [schedule.grid.sigma(each) for each in index]
    labels, axis = schedule.grid.curve.labels(sigmas, 3), f"noise level ({schedule.grid.curve.unit})"
    kappas = {"suggested kappa": suggestion.index, "kappa": schedule.kappa_index}
    marks = [Mark(name, _place(index, kappa)) for name, kappa in kappas.items()]
    for name, title in _FIGURES:
        drawn = [Curve(_when(each), getattr(each, name)) for each in found]
        save_png(folder / f"{name}.png", curves(title, axis, labels, drawn, marks, log=not name.startswith("jump")))
    for each in found:
        title = f"Cosine between gradients of different clips, {_when(each)}"
        save_png(folder / f"cosine_{each.iteration}.png", matrix(title, axis, labels, each.cosine))
    _write_json(
        folder / RAW,
        {
            **about,
            "kappa": {"configured": schedule.kappa_index, "suggested": suggestion.index, "votes": suggestion.votes()},
            "boundaries": suggestion.boundaries,
            "scores": suggestion.scores,
            "grid_index": list(index),
            "sigma": sigmas,
            "measured": [asdict(each) for each in found],
        },
    )


def write_layers(folder: Path, shares: Mapping[str, float], about: Mapping[str, Any]) -> None:
    """The same of two experts' weights, in a figure and numbers of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    title = "How far the weights of two separately trained experts lie apart"
    axis = "norm of the difference over that of the weights"
    save_png(folder / "layers.png", bars(title, axis, list(shares.items())))
    _write_json(folder / "layers.json", {**about, "difference": dict(shares)})


def told(schedule: ExpertSchedule, index: Sequence[int], last: Measured, suggestion: Suggestion) -> str:
    """What the figures say, in a few lines."""
    votes = ", ".join(f"{name} {each}" for name, each in suggestion.votes().items())
    top = max(range(len(index)), key=lambda n: last.gradient[n])
    return (
        f"{_when(last).capitalize()}: the loss goes from {last.loss[0]:.3g} at the lowest noise to {last.loss[-1]:.3g} "
        f"at the highest, and the gradient is largest at {schedule.spell(schedule.grid.sigma(index[top]))}.\n"
        f"Gradients of the lowest and the highest noise: cosine {last.cosine[0][-1]:.2f}; of the same noise level and "
        f"other clips {_diagonal(last):.2f}.\n"
        f"Suggested kappa_index: {suggestion.index}, {schedule.spell(schedule.grid.sigma(suggestion.index))} "
        f"(alone: {votes}); configured: {schedule.kappa_index}. Train a pair with each before you believe it."
    )


def _diagonal(found: Measured) -> float:
    return sum(row[place] for place, row in enumerate(found.cosine)) / len(found.cosine)


def _when(found: Measured) -> str:
    return f"after {found.iteration} iterations" if found.iteration else "before training"


def _place(index: Sequence[int], kappa: int) -> float:
    """Where the upper end of a kappa's grid interval lies on an axis of these grid indices."""
    at = kappa + 0.5
    if at <= index[0]:
        return -0.25
    after = next((n for n, each in enumerate(index) if each > at), len(index) - 1)
    low, high = index[after - 1], index[after]
    return after - 1 + (at - low) / (high - low)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(values, indent=1) + "\n").encode())
