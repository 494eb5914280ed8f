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
    both, alone = {"semantic", "detail"}, {"semantic"}
    pairs = {n: pair for n, pair in found.items() if n is not None and pair.keys() >= (alone if n == 1 else both)}
    if len(for_any) == 2:
        pairs.setdefault(USUAL_STEPS, for_any)
    return dict(sorted(pairs.items()))
