"""Does an expert keep what its header says of its tensors? A file that was put together wrongly has a right digest."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import ExpertFileError, shortened
from .layers import Layer, pairs_of
from .metadata import ExpertMetadata

_SAME = 1e-6  # a file holds alpha in float32


def refuse_contradictions(metadata: ExpertMetadata, layers: Mapping[str, Layer]) -> None:
    """Raise ExpertFileError that names the layers whose rank or alpha is not the header's."""
    if wrong := contradictions(metadata, layers):
        raise ExpertFileError(
            f"the header contradicts the tensors: {shortened(wrong, 4)}. Export the expert again, or correct dcm.rank "
            "and dcm.alpha."
        )


def contradictions(metadata: ExpertMetadata, layers: Mapping[str, Layer]) -> list[str]:
    """What of the layers' low-rank pairs is not as the header says, one piece of a sentence each."""
    wrong = []
    for name, (pair, *others) in pairs_of(layers).items():
        rank, alpha, count = len(pair.down), pair.alpha, 1 + len(others)
        # Pairs of fused layers may be meant each, or as the one pair that other loaders take them for.
        meant = [(rank, alpha), (rank * count, alpha * count)]
        if not any(_is(r, metadata.rank) and _is(a, metadata.alpha) for r, a in meant):
            told = [f"{what} {value:g}" for what, value in _said(metadata)]
            wrong.append(f"{name} has rank {rank} and alpha {alpha:g}, the header says {' and '.join(told)}")
    return wrong


def _said(metadata: ExpertMetadata) -> list[tuple[str, float]]:
    said = ("rank", metadata.rank), ("alpha", metadata.alpha)
    return [(what, value) for what, value in said if value is not None]


def _is(value: float, promised: float | None) -> bool:
    return promised is None or math.isclose(value, promised, rel_tol=_SAME)
