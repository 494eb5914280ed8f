"""Numbers with their 95% intervals: by bootstrap over clips, of shares by Wilson's formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES, SEED = 1000, 0
_Z = 1.96
_MOST = 1 << 22  # numbers that are resampled at once


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Callable[..., Tensor], *columns: Tensor, biased: bool = False) -> Estimate:
    """``statistic(*columns)`` and its interval over resampled clips.

    Each of the columns is [N, ...], a row a clip; the statistic takes any number of dimensions before these.
    ``biased``: it grows when clips are drawn twice, as distances between distributions do; its interval is turned
    around for that, and holds the number itself also where few clips make every resample larger.
    """
    count = len(columns[0])
    value = float(statistic(*columns))
    generator = torch.Generator().manual_seed(SEED)
    batch = max(1, _MOST // max(each.numel() for each in columns))
    found: list[float] = []
    while len(found) < RESAMPLES:
        drawn = torch.randint(count, (min(batch, RESAMPLES - len(found)), count), generator=generator)
        found += statistic(*(each[drawn] for each in columns)).tolist()
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    if biased:
        low, high = (2 * value - high).clamp(0, value), (2 * value - low).clamp(min=value)
    return Estimate(value, float(low), float(high))


def mean(values: Sequence[float] | Tensor) -> Estimate:
    """Of the mean over clips."""
    return bootstrap(lambda each: each.mean(-1), torch.as_tensor(values, dtype=torch.float64))


def ratio(values: Sequence[float] | Tensor, reference: Sequence[float] | Tensor) -> Estimate:
    """Of one mean over another, clip by clip of the same prompts; 1 where there is nothing to compare with."""
    columns = (torch.as_tensor(each, dtype=torch.float64) for each in (values, reference))

    def of_means(value: Tensor, wanted: Tensor) -> Tensor:
        value, wanted = value.mean(-1), wanted.mean(-1)
        return torch.where(wanted > 0, value / wanted.clamp(min=1e-12), 1.0)

    return bootstrap(of_means, *columns)


def share(right: Sequence[bool]) -> Estimate:
    """Of a share of clips, by Wilson's formula."""
    count, part = len(right), sum(right) / len(right)
    centre = (part + _Z * _Z / (2 * count)) / (1 + _Z * _Z / count)
    half = _Z / (1 + _Z * _Z / count) * math.sqrt(part * (1 - part) / count + _Z * _Z / (4 * count * count))
    return Estimate(part, max(0.0, centre - half), min(1.0, centre + half))
