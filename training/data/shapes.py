"""The Shapes world as an endless data set: every iteration renders new clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES, ATTRIBUTES, Attributes, encode_text
from dcm_core.shapes.network import LATENT_SHAPE
from dcm_core.shapes.readout import read_clips
from dcm_core.shapes.render import render_clips

from ..config import DataConfig, Section, build
from ..draws import random_generator
from ..errors import ConfigError, unknown
from .batch import Batch

_STREAM = 0x5A  # keeps these draws apart from the methods' noise of the same iteration
_JUDGED = 8  # clips


class ShapesOptions(Section):
    """Which clips there are."""

    only: dict[str, list[str]] = Field(
        default_factory=dict,
        description="The words allowed for an attribute, as in `{shape: [circle, square], speed: [fast]}`; the other "
        "attributes are free.",
    )


class ShapesData:
    """Clips of random attributes, rendered, encoded and captioned."""

    Options = ShapesOptions

    def __init__(self, config: DataConfig, seed: int):
        self.choices = _choices(build(self.Options, config.options, "data.options").only)
        if config.batch_size < 1:
            raise ConfigError(f"data.batch_size={config.batch_size} must be at least 1.")
        self.config, self.seed = config, seed
        self.latent_shape, self.batch_size = LATENT_SHAPE, config.batch_size

    def batch(self, iteration: int) -> Batch:
        """The clips of an iteration counted from 0."""
        generator = random_generator(self.seed ^ _STREAM << 16, iteration)
        count = self.batch_size
        chosen = torch.randint(len(self.choices), (count,), generator=generator).tolist()
        attributes = [self.choices[i] for i in chosen]
        latents = autoencoder.encode(render_clips(attributes, generator))
        dropped = torch.rand(count, generator=generator) < self.config.text_dropout
        captions = ["" if drop else each.caption() for each, drop in zip(attributes, dropped, strict=True)]
        return Batch(latents, encode_text(captions))

    def text(self, captions: list[str]) -> Tensor:
        """[B, L, D]; the empty caption is the unconditional text. Raises ValueError for an unknown word."""
        return encode_text(captions)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, T, H, W] to clips [B, 3, T', H', W'] in -1..1."""
        return autoencoder.decode(latents)

    def verdict(self, sample: Callable[[list[str]], Tensor]) -> str:
        """How many of a few clips show what was asked for, attribute by attribute."""
        order = torch.randperm(len(self.choices), generator=torch.Generator().manual_seed(0)).tolist()
        asked = [self.choices[i] for i in order[:_JUDGED]]
        readings = read_clips(self.decode(sample([each.caption() for each in asked])).cpu())
        right = {
            name: sum(getattr(r.attributes, name) == getattr(a, name) for r, a in zip(readings, asked, strict=True))
            for name in ATTRIBUTES
        }
        counts = ", ".join(f"{name} {count}" for name, count in right.items())
        return f"Of {len(asked)} clips, so many show what was asked for: {counts}.\n"


def _choices(only: dict[str, list[str]]) -> list[Attributes]:
    for name in only:
        if name not in ATTRIBUTES:
            raise unknown("data.options.only", name, ATTRIBUTES)
    choices = [each for each in ALL_ATTRIBUTES if all(getattr(each, name) in only[name] for name in only)]
    if not choices:
        raise ConfigError(f"data.options.only={only} leaves a data set of zero clips; allow other words.")
    return choices


DATA = ShapesData
