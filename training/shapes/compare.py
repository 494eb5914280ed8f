"""The Shapes comparison: one row per way of sampling, every row from the same noise and prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dcm_core.sampling import VelocityModel, euler, guided
from dcm_core.schedule.experts import ExpertSchedule
from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES, ATTRIBUTES, Attributes, encode_text
from dcm_core.shapes.network import LATENT_SHAPE
from dcm_core.shapes.readout import Reading, read_clips

_BATCH = 32


@dataclass(frozen=True)
class Entrant:
    """One way of sampling: a velocity model called as ``model(x, sigma, text)``, its sigmas, its guidance scale."""

    name: str
    model: VelocityModel
    sigmas: Tensor
    guidance: float = 1.0

    @property
    def network_calls(self) -> int:
        return (len(self.sigmas) - 1) * (1 if self.guidance == 1.0 else 2)


@dataclass(frozen=True)
class Result:
    """What an entrant made of the prompts: clips [N, 3, T, H, W] in -1..1, their readings, seconds per clip, and each
    clip's latent distance to the first entrant's, relative to that one's norm."""

    entrant: Entrant
    prompts: Sequence[Attributes]
    clips: Tensor
    readings: Sequence[Reading]
    distance: Tensor
    seconds: float

    def right(self, attribute: str) -> list[bool]:
        """Per clip: does it show the prompted attribute?"""
        return [
            getattr(reading.attributes, attribute) == getattr(prompt, attribute)
            for reading, prompt in zip(self.readings, self.prompts, strict=True)
        ]

    @property
    def motion_error(self) -> list[float]:
        """Per clip: distance in pixels a frame between measured and prompted velocity."""
        return [reading.motion_error(p) for reading, p in zip(self.readings, self.prompts, strict=True)]

    @property
    def sharpness(self) -> list[float]:
        return [reading.sharpness for reading in self.readings]


def plain_sigmas(schedule: ExpertSchedule, steps: int) -> Tensor:
    """What an ordinary N-step run of the teacher uses: sigmas of evenly spaced u, [steps + 1], ends with 0."""
    points = schedule.grid.points
    return torch.tensor([schedule.grid.sigma(round(points * (steps - i) / steps) - 1) for i in range(steps)] + [0.0])


def choose_prompts(count: int, seed: int) -> list[Attributes]:
    """Prompts drawn without repetition as far as that goes, in an order that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(ALL_ATTRIBUTES), generator=generator).tolist()
    return [ALL_ATTRIBUTES[i] for i in order[:count]]


def compare(entrants: Sequence[Entrant], prompts: Sequence[Attributes], seed: int) -> list[Result]:
    """Run every entrant on the prompts from the same noise. The first one is the reference of ``distance``."""
    noise = torch.randn(len(prompts), *LATENT_SHAPE, generator=torch.Generator().manual_seed(seed))
    results: list[Result] = []
    reference = None
    for entrant in entrants:
        start = time.perf_counter()
        latents = torch.cat(
            [_sample(entrant, noise[i : i + _BATCH], prompts[i : i + _BATCH]) for i in range(0, len(prompts), _BATCH)]
        )
        seconds = (time.perf_counter() - start) / len(prompts)
        reference = latents if reference is None else reference
        distance = (latents - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
        clips = autoencoder.decode(latents)
        results.append(Result(entrant, prompts, clips, read_clips(clips), distance, seconds))
    return results


def _sample(entrant: Entrant, noise: Tensor, prompts: Sequence[Attributes]) -> Tensor:
    text = encode_text([prompt.caption() for prompt in prompts])
    model = partial(_with_text, entrant.model, text)
    if entrant.guidance != 1.0:
        model = guided(entrant.model, text, torch.zeros_like(text), entrant.guidance)
    return euler(model, noise, entrant.sigmas)


def _with_text(model: VelocityModel, text: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return model(x, sigma, text)


HEADINGS = ("", "calls", "cfg", "s/clip", *ATTRIBUTES, "motion error", "sharpness", "distance")


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The comparison as rows of text under HEADINGS."""
    rows = []
    for result in results:
        count = len(result.prompts)
        accuracies = [f"{sum(result.right(attribute)) / count:.0%}" for attribute in ATTRIBUTES]
        rows.append(
            (
                result.entrant.name,
                str(result.entrant.network_calls),
                f"{result.entrant.guidance:g}",
                f"{result.seconds:.2f}",
                *accuracies,
                f"{sum(result.motion_error) / count:.3f}",
                f"{sum(result.sharpness) / count:.2f}",
                f"{float(result.distance.mean()):.3f}",
            )
        )
    return rows


def as_markdown(rows: Sequence[Sequence[str]], headings: Sequence[str] = HEADINGS) -> str:
    """Rows as an aligned Markdown table, which also reads well in a terminal."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        texts = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(texts) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(headings), rule, *map(line, rows)])
