"""The Shapes comparison: every row from the same noise and prompts, measured against the first and by the read-out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES, ATTRIBUTES, Attributes
from dcm_core.shapes.network import LATENT_SHAPE
from dcm_core.shapes.readout import read_clips
from dcm_core.shapes.render import FRAMES_PER_SECOND, render_clips

from ..evaluation.features import pooled
from ..evaluation.intervals import Estimate, mean, share
from ..evaluation.measures import Measure, Measured, per_clip, summary
from ..evaluation.report import Row
from ..evaluation.store import stored
from .entrants import Entrant

_BATCH = 32
_AGAIN, _PROMPTS = 3, 16  # so many times more, so many of the prompts are sampled from other noise, for diversity

# What is measured in this world alone.
MEASURES = {
    "distance": Measure("of the latents to the first row's, over their norm; 0 is the same video"),
    **{name: Measure(f"clips whose pixels show the prompted {name}", percent=True) for name in ATTRIBUTES},
    "motion error": Measure("pixels a frame between the prompted motion and the shown; 0 is perfect"),
    "sharpness": Measure(
        "gradients inside the shape over its template's: 1 is perfect, more is noise, and a clip that shows nothing "
        "can exceed it by far",
        2,
    ),
}


@dataclass(frozen=True)
class Trial:
    """What every row is given. ``count``: of the prompts those that are measured; the others are for diversity."""

    prompts: Sequence[Attributes]
    noise: Tensor
    count: int
    seed: int

    @classmethod
    def of(cls, count: int, seed: int, again: int = _AGAIN) -> Trial:
        """``again``: how many times more the first prompts are sampled."""
        prompts = choose_prompts(count, seed)
        repeated = prompts[:_PROMPTS] * again
        generator = torch.Generator().manual_seed(seed)
        noise = [torch.randn(len(each), *LATENT_SHAPE, generator=generator) for each in (prompts, repeated)]
        return cls(prompts + repeated, torch.cat(noise), count, seed)

    @property
    def captions(self) -> list[str]:
        return [prompt.caption() for prompt in self.prompts]


def choose_prompts(count: int, seed: int) -> list[Attributes]:
    """Prompts drawn without repetition as far as that goes, in an order that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(ALL_ATTRIBUTES), generator=generator).tolist()
    return [ALL_ATTRIBUTES[i] for i in order[:count]]


def compare(entrants: Sequence[Entrant], trial: Trial, shown: int, folder: Path | None = None) -> list[Row]:
    """The rows of the entrants; the first is the reference. ``shown``: clips that rows carry to be looked at.

    ``folder``: where the latents of those with a recipe are kept, and taken from where they are there.
    """
    real = pooled(render_clips(trial.prompts[: trial.count], torch.Generator().manual_seed(trial.seed)))
    rows, reference = [], None
    for entrant in tqdm(entrants, desc="rows", ncols=80):
        latents, seconds = _rendered(entrant, trial, folder)
        clips = autoencoder.decode(latents)
        reference = (latents, clips) if reference is None else reference
        measured, wanted = (Measured.of(each, reference[1]) for each in (clips, reference[1]))
        distance = (latents - reference[0]).flatten(1).norm(dim=1) / reference[0].flatten(1).norm(dim=1)
        read = _read(clips[: trial.count], trial.prompts)
        numbers = {"distance": mean(distance[: trial.count]), **read}
        numbers |= summary(measured, wanted, real, trial.captions, trial.count)
        facts = {"calls": str(entrant.calls), "cfg": f"{entrant.guidance:g}"}
        beside = {"distance": distance.tolist(), **per_clip(measured, wanted)}
        beside = {name: values[:shown] for name, values in beside.items()}
        rate = [FRAMES_PER_SECOND] * shown
        rows.append(Row(entrant.name, facts, numbers, list(clips[:shown]), beside, rate, seconds))
    return rows


def _rendered(entrant: Entrant, trial: Trial, folder: Path | None) -> tuple[Tensor, float]:
    """Latents of all prompts, and seconds a clip."""

    def make() -> tuple[Tensor, float]:
        start = time.perf_counter()
        batches = range(0, len(trial.prompts), _BATCH)
        latents = [entrant.sample(trial.noise[i : i + _BATCH], trial.captions[i : i + _BATCH]) for i in batches]
        return torch.cat(latents), (time.perf_counter() - start) / len(trial.prompts)

    if folder is None or not entrant.recipe:
        return make()
    recipe = {**entrant.recipe, "seed": trial.seed, "clips": [trial.count, len(trial.prompts)]}
    return stored(folder, entrant.name, recipe, make)


def _read(clips: Tensor, prompts: Sequence[Attributes]) -> dict[str, Estimate]:
    """What the pixels show."""
    pairs = list(zip(read_clips(clips), prompts, strict=False))
    right = {name: [getattr(read.attributes, name) == getattr(p, name) for read, p in pairs] for name in ATTRIBUTES}
    return {
        **{name: share(each) for name, each in right.items()},
        "motion error": mean([read.motion_error(prompt) for read, prompt in pairs]),
        "sharpness": mean([read.sharpness for read, _ in pairs]),
    }
