"""Total, Quality and Semantic from the scores of the dimensions, beside published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Dimension(NamedTuple):
    """The range to which a score is normalised, and its weight in its group."""

    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0


# scripts/constant.py of VBench
QUALITY = {
    "subject_consistency": Dimension(0.1462),
    "background_consistency": Dimension(0.2615),
    "temporal_flickering": Dimension(0.6293),
    "motion_smoothness": Dimension(0.706, 0.9975),
    "dynamic_degree": Dimension(weight=0.5),
    "aesthetic_quality": Dimension(),
    "imaging_quality": Dimension(),
}
SEMANTIC = {
    "object_class": Dimension(),
    "multiple_objects": Dimension(),
    "human_action": Dimension(),
    "color": Dimension(),
    "spatial_relationship": Dimension(),
    "scene": Dimension(high=0.8222),
    "appearance_style": Dimension(0.0009, 0.2855),
    "temporal_style": Dimension(high=0.364),
    "overall_consistency": Dimension(high=0.364),
}
DIMENSIONS = (*QUALITY, *SEMANTIC)
# Those that need no prompt of VBench's own
CUSTOM = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
_QUALITY_SHARE = 4 / 5


class Row(NamedTuple):
    """Scores in percent, as they are published; None where they were not."""

    name: str
    calls: str
    total: float
    quality: float | None = None
    semantic: float | None = None


# DCM's table 1 (arXiv 2506.03123), and for Wan the newest reports; calls are steps, doubled where guidance is.
PUBLISHED = (
    Row("HunyuanVideo", "50", 83.87, 85.00, 79.34),
    Row("HunyuanVideo, LCM", "4", 80.33, 80.83, 78.32),
    Row("HunyuanVideo, PCM", "4", 80.93, 81.94, 76.90),
    Row("HunyuanVideo, DCM", "4", 83.83, 85.12, 78.67),
    Row("HunyuanVideo, LCM", "8", 81.49, 82.35, 78.03),
    Row("HunyuanVideo, PCM", "8", 81.63, 82.78, 77.00),
    Row("HunyuanVideo, DCM", "8", 83.86, 85.00, 79.32),
    Row("CogVideoX", "100", 80.59, 81.93, 75.23),
    Row("CogVideoX, LCM", "4", 78.88, 80.07, 74.12),
    Row("CogVideoX, PCM", "4", 79.09, 80.33, 74.14),
    Row("CogVideoX, DCM", "4", 79.99, 81.35, 74.56),
    Row("CogVideoX, LCM", "8", 79.34, 80.64, 74.21),
    Row("CogVideoX, PCM", "8", 79.70, 80.98, 74.60),
    Row("CogVideoX, DCM", "8", 80.26, 81.57, 75.03),
    Row("Wan 2.1 1.3B, PDD (2607.26004)", "4", 84.94, 86.45),
    Row("Wan 2.1 1.3B, DMD2 (FastGen)", "4", 84.72, 85.86, 80.15),
    Row("Wan 2.1 1.3B, Self-Forcing", "4", 84.27),
    Row("Wan 2.1 1.3B, TMD", "1.17", 83.80),
)


def aggregate(scores: Mapping[str, float], name: str, calls: str) -> Row:
    """The official Quality, Semantic and Total of all sixteen dimensions. Raises KeyError where one is missing."""
    quality, semantic = _group(scores, QUALITY), _group(scores, SEMANTIC)
    total = _QUALITY_SHARE * quality + (1 - _QUALITY_SHARE) * semantic
    return Row(name, calls, 100 * total, 100 * quality, 100 * semantic)


def table(own: Row | None) -> str:
    """The published rows as Markdown, and one's own above them."""
    rows = [own, *PUBLISHED] if own else PUBLISHED
    lines = ["| | calls | Total | Quality | Semantic |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        values = (row.total, row.quality, row.semantic)
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append(f"| {row.name} | {row.calls} | {' | '.join(cells)} |")
    return "\n".join(lines)


def listed(scores: Mapping[str, float]) -> str:
    """The raw scores of dimensions as Markdown, in the official order."""
    known: Sequence[str] = [name for name in DIMENSIONS if name in scores]
    lines = ["| dimension | score |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {100 * scores[name]:.2f} |" for name in known)])


def _group(scores: Mapping[str, float], dimensions: Mapping[str, Dimension]) -> float:
    weighed = sum(each.weight * (scores[name] - each.low) / (each.high - each.low) for name, each in dimensions.items())
    return weighed / sum(each.weight for each in dimensions.values())
