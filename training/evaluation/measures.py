"""What is measured of finished clips beside their reference's, and what each number means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from dcm_core.motion import STILL, differences, speeds, temporal_error

from .clips import high_frequency
from .features import FEATURES, frechet, pooled
from .intervals import Estimate, bootstrap, mean, ratio


@dataclass(frozen=True)
class Measure:
    """How a number is written, and what it means. ``percent``: a share, written in percent."""

    meaning: str
    digits: int = 3
    percent: bool = False

    def text(self, found: Estimate) -> str:
        if self.percent:
            return f"{found.value:.0%} ({100 * found.low:.0f}-{100 * found.high:.0f})"
        return "{:.{d}f} ({:.{d}f}-{:.{d}f})".format(found.value, found.low, found.high, d=self.digits)


MEASURES = {
    "pixel distance": Measure("root mean square difference of the pixels to the reference's, of 0..1; 0 is the same"),
    "motion": Measure("speed by optical flow over the reference's: 1 is as much motion", 2),
    "frame difference": Measure("how much pixels change from frame to frame, over the reference's", 2),
    "temporal error": Measure("distance between these changes and the reference's: 0 the same, 1 as a still picture"),
    "high frequencies": Measure("energy of the finest detail over the reference's: below 1 blurred, above it noisy", 2),
    "diversity": Measure("distance between videos of one prompt from different noise, over the reference's", 2),
    "Frechet": Measure(f"Frechet distance on {FEATURES}", 2),
}


@dataclass(frozen=True)
class Measured:
    """What is known of each clip of a set: numbers [N] by name, features [N, D], small pictures for ``diversity``."""

    numbers: dict[str, Tensor]
    features: Tensor
    pictures: Tensor

    @classmethod
    def of(cls, clips: Tensor, reference: Tensor) -> Measured:
        """Of clips [N, 3, T, H, W] in -1..1 and their reference's, of the same size."""
        frames = min(clips.shape[2], reference.shape[2])
        same, wanted = clips[:, :, :frames], reference[:, :, :frames]
        numbers = {
            "pixel distance": (same - wanted).flatten(1).square().mean(1).sqrt() / 2,
            "speed": _moving(speeds(clips).mean(1)),
            "change": differences(clips).mean(1),
            "temporal error": temporal_error(same, wanted),
            "high frequency": high_frequency(clips),
        }
        pictures = torch.nn.functional.adaptive_avg_pool3d(clips.float(), (min(4, clips.shape[2]), 24, 24)).flatten(1)
        return cls(numbers, pooled(clips), pictures)

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        numbers = {name: torch.cat([part.numbers[name] for part in parts]) for name in parts[0].numbers}
        features, pictures = (torch.cat([getattr(part, name) for part in parts]) for name in ("features", "pictures"))
        return cls(numbers, features, pictures)


def summary(row: Measured, reference: Measured, real: Tensor, groups: Sequence[str], count: int) -> dict[str, Estimate]:
    """The numbers of a row, over its first ``count`` clips; the others are there for diversity alone.

    ``real``: features of the clips that Frechet's distance is to. ``groups``: the prompt of each clip; diversity is
    measured where one has several. What needs a reference that moves is measured on such clips, and left out where
    there is none.
    """
    own, wanted = ({name: each[:count] for name, each in of.numbers.items()} for of in (row, reference))
    found = {"pixel distance": mean(own["pixel distance"])}
    moves = wanted["speed"] > 0
    if moves.any():
        found["motion"] = ratio(own["speed"], wanted["speed"])
    found["frame difference"] = ratio(own["change"], wanted["change"])
    if moves.any():
        found["temporal error"] = mean(own["temporal error"][moves])
    found["high frequencies"] = ratio(own["high frequency"], wanted["high frequency"])
    if len(set(groups)) < len(groups):
        found["diversity"] = ratio(*(_diversity(each.pictures, groups) for each in (row, reference)))
    if min(count, len(real)) > 1:
        found["Frechet"] = bootstrap(lambda each: frechet(each, real), row.features[:count], biased=True)
    return found


def per_clip(row: Measured, reference: Measured) -> dict[str, list[float]]:
    """The numbers of each clip that are shown beside it; not a number where its reference has nothing to compare."""
    own, wanted = row.numbers, reference.numbers
    moves = wanted["speed"] > 0
    return {
        "pixel distance": own["pixel distance"].tolist(),
        "motion": _share(own["speed"], wanted["speed"]),
        "temporal error": torch.where(moves, own["temporal error"], torch.nan).tolist(),
        "high frequencies": _share(own["high frequency"], wanted["high frequency"]),
    }


def _share(own: Tensor, wanted: Tensor) -> list[float]:
    return torch.where(wanted > 0, own / wanted, torch.nan).tolist()


def _moving(speed: Tensor) -> Tensor:
    """A speed too small to be told from noise is none, so that nothing is a share of it."""
    return torch.where(speed < STILL, 0.0, speed)


def _diversity(pictures: Tensor, groups: Sequence[str]) -> list[float]:
    """By prompt that has several clips: the mean distance between two of them."""
    found = []
    for group in dict.fromkeys(groups):
        members = [number for number, each in enumerate(groups) if each == group]
        if len(members) > 1:
            pairs = [(pictures[a] - pictures[b]).square().mean().sqrt() for a, b in combinations(members, 2)]
            found.append(float(torch.stack(pairs).mean()))
    return found
