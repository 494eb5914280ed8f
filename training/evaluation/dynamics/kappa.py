"""A kappa from what was measured: the boundary that parts noise levels which learn alike from those which do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .measure import Measured


@dataclass(frozen=True)
class Suggestion:
    """``index``: the suggested kappa. ``boundaries``: the grid indices that were weighed. ``scores``: of each measure
    at each of them, 0 to 1.

    Of loss, gradient and jump error it is the share of their logarithm's variance that two levels, one on each side,
    explain; one that rises evenly has .75 in the middle. Of the cosine, how much more gradients on the same side agree
    than those across, over the most of any boundary.
    """

    index: int
    boundaries: list[int]
    scores: dict[str, list[float]]

    def votes(self) -> dict[str, int]:
        """What each measure alone would choose; none where it tells no boundary from another."""
        return {name: self.boundaries[_best(each)] for name, each in self.scores.items() if any(each)}


def suggested(index: Sequence[int], found: Measured) -> Suggestion:
    """Of what was measured at these grid indices, four or more. All measures count the same."""
    boundaries = [(low + high) // 2 for low, high in pairwise(index)]
    curves = {"loss": found.loss, "gradient": found.gradient, "jump error": found.jump_error}
    scores = {name: [_explained(values, n) for n in range(1, len(index))] for name, values in curves.items()}
    contrast = [_contrast(found.cosine, n) for n in range(1, len(index))]
    most = max(contrast)
    scores["cosine"] = [max(0.0, each / most) if most > 0 else 0.0 for each in contrast]
    together = [sum(each) for each in zip(*scores.values(), strict=True)]
    return Suggestion(boundaries[_best(together)], boundaries, scores)


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def _explained(values: Sequence[float], below: int) -> float:
    """The share of the variance of logarithms that goes when the first ``below`` have a mean of their own."""
    logs = [math.log(max(value, 1e-12)) for value in values]
    total = _spread(logs)
    return 1 - (_spread(logs[:below]) + _spread(logs[below:])) / total if total else 0.0


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def _contrast(cosine: Sequence[Sequence[float]], below: int) -> float:
    """Mean cosine between levels on the same side, less that between sides."""
    places = range(len(cosine))
    same = [cosine[i][j] for i in places for j in places if i != j and (i < below) == (j < below)]
    across = [cosine[i][j] for i in places for j in places if (i < below) != (j < below)]
    return _mean(same) - _mean(across)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
