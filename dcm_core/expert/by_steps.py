"""Expert files beside each other, found by the number of steps that they are for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..schedule.experts import USUAL_STEPS
from .file import metadata_of

Pair = dict[str, Path]  # by "semantic" and "detail"


def by_steps(paths: Iterable[Path]) -> dict[int, Pair]:
    """The files by the steps that they were trained for; those that hold for any serve for the usual ones.

    Left out are files without their other half, but for one step, which is the semantic expert's alone.
    Raises ExpertFileError for what is no expert.
    """
    found: dict[int | None, Pair] = {}
    for path in paths:
        metadata = metadata_of(path)
        found.setdefault(metadata.trained_steps, {})[metadata.expert] = path
    for_any = found.pop(None, {})
    pairs = {
        steps: pair
        for steps, pair in found.items()
        if steps is not None and (len(pair) == 2 or (steps == 1 and "semantic" in pair))
    }
    if len(for_any) == 2:
        pairs.setdefault(USUAL_STEPS, for_any)
    return dict(sorted(pairs.items()))
