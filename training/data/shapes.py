"""The Shapes world as an endless data set: every iteration renders new clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES, ATTRIBUTES, Attributes, encode_text
from dcm_core.shapes.network import LATENT_SHAPE
from dcm_core.shapes.readout import read_clips
from dcm_core.shapes.render import render_clip

from ..config import DataConfig, Section, build
from ..errors import ConfigError, unknown
from ..run.draws import Draws
from .base import left_out
from .batch import Batch, Conditions

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
    made_for = None
    told_of_image: frozenset[str] = frozenset()
    content = ""

    def __init__(self, config: DataConfig):
        self.choices = _choices(build(self.Options, config.options, "data.options").only)
        if config.batch_size < 1:
            raise ConfigError(f"data.batch_size={config.batch_size} must be at least 1.")
        self.config = config
        self.latent_shape, self.batch_size = LATENT_SHAPE, config.batch_size

    @property
    def prompts(self) -> list[str]:
        """All captions, in an order in which neighbours differ."""
        order = torch.randperm(len(self.choices), generator=torch.Generator().manual_seed(0)).tolist()
        return [self.choices[i].caption() for i in order]

    def batch(self, draws: Draws) -> Batch:
        """The clips of an iteration."""
        clips, captions = [], []
        for generator in draws.generators("data"):
            attributes = self.choices[int(torch.randint(len(self.choices), (), generator=generator))]
            clips.append(render_clip(attributes, generator))
            dropped = float(torch.rand((), generator=generator)) < self.config.text_dropout
            captions.append("" if dropped else attributes.caption())
        return Batch(autoencoder.encode(torch.stack(clips)), Conditions(encode_text(captions)))

    def conditions(self, captions: list[str], dropped: Collection[int] = ()) -> Conditions:
        """Of captions, B in number. Raises ValueError for an unknown word."""
        return Conditions(encode_text(left_out(captions, dropped)))

    def frames_of(self, captions: Sequence[str]) -> str:
        """There are none."""
        return ""

    def unconditional(self, conditions: Conditions) -> Conditions:
        """The same with the text of the empty caption."""
        return replace(conditions, text=encode_text([""] * len(conditions)).to(conditions.text))

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
