"""Where the steps of a run lie on the grid: pure whole-number arithmetic on grid indices.

The experts share the steps evenly, and each spreads its own uniformly in grid index over its part: the
semantic expert from the start of the run to kappa, the detail expert from kappa to sigma 0, which is "index
-1".
"""

from __future__ import annotations

from .grid import whole_number


def plan_steps(
    steps: int, semantic_steps: int | None, *, points: int, kappa: int, gate: int, first: int
) -> tuple[list[int], list[int]]:
    """Grid indices where the steps of the semantic and of the detail expert start, falling.

    * ``semantic_steps``: None for an even share, in which an odd step goes to the detail expert.
    * ``first``: the index where the run starts, ``points - 1`` for pure noise.
    * ``kappa``: the index where the detail expert starts.
    * ``gate``: the highest index at which it acts: kappa, or above it by a published threshold.

    Raises ValueError for counts that the experts' parts of the grid cannot give.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: use at least 1.")
    if steps > first + 1:
        raise ValueError(
            f"steps is {steps}, but from the start of this run the grid has only {first + 1} point(s): "
            f"use at most {first + 1}" + ("." if first == points - 1 else ", or a larger denoise.")
        )
    above, below = max(0, first - gate), min(first, gate) + 1
    if semantic_steps is None:
        semantic = _even_share(steps, points - 1 - kappa, first - kappa, above, below)
    else:
        semantic = _manual_share(steps, whole_number("semantic_steps", semantic_steps), above, below)
    detail = steps - semantic
    # max() acts only where the gate lies above kappa: there a long run needs the points between the two as
    # well, and each step has to leave one for every step that follows.
    upper = [max(kappa + _divide((first - kappa) * left, semantic), gate + left) for left in range(semantic, 0, -1)]
    start = kappa if semantic else first
    lower = [max(start - _divide((start + 1) * done, detail), detail - 1 - done) for done in range(detail)]
    return upper, lower


def _even_share(steps: int, whole: int, rest: int, above: int, below: int) -> int:
    """Steps of the semantic expert, which has ``rest`` of its ``whole`` part of the grid before it."""
    if not above:
        return 0
    # A run that starts late keeps the pace of a whole one. One step alone, noise to video, is the semantic
    # expert's.
    pace = _divide(max(1, steps // 2) * rest, whole)
    return max(min(max(1, pace), above), steps - below)


def _manual_share(steps: int, semantic: int, above: int, below: int) -> int:
    if not above:
        raise ValueError(
            "semantic_steps is set, but with this denoise the run starts in the detail expert's part: "
            "use a larger denoise, or leave semantic_steps to the schedule."
        )
    if steps == 1:
        raise ValueError("one step cannot be shared: use 2 or more, or leave semantic_steps to the schedule.")
    lowest, highest = max(1, steps - below), min(steps - 1, above)
    if not lowest <= semantic <= highest:
        raise ValueError(
            f"semantic_steps is {semantic}, but each expert needs at least one of the {steps} steps, and the "
            f"grid has {above} point(s) for the semantic and {below} for the detail expert: "
            f"use {lowest} to {highest}, or another number of steps."
        )
    return semantic


def _divide(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest whole number. Ties go down, here always towards kappa."""
    return (2 * numerator + denominator - 1) // (2 * denominator)
