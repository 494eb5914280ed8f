"""What data sets of finished latents share: batches of one bucket each, and captions padded to the longest."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..config import DataConfig
from ..errors import ConfigError
from ..run.draws import Draws
from .batch import Batch, Conditions
from .buckets import usual
from .plan import BatchPlan

Text = Mapping[str, Tensor]  # "text" [L, D] without padding, and "pooled" [P] where there is one
Frame = Mapping[str, Tensor]  # "image" [C, T, H, W] and "vision" [N, D] of a first frame, where they are told


class BucketedData(ABC):
    """Clips whose latents and texts are there. Every clip comes once an epoch, with those of its bucket.

    ``buckets``: of each clip. ``empty``: the text of no caption; ``away``: what guidance leads away from. ``made_for``:
    the backbone whose latents they are; ``encoders``: folder or hub name of its autoencoder. ``told_of_image``: what a
    ``first_frame`` holds. ``stands_in``: is the text of no caption only something in its place, for who never asks?
    """

    told_of_image: frozenset[str] = frozenset()
    stands_in = False

    made_for: str
    encoders: str | None
    empty: Text
    away: Text

    def __init__(self, config: DataConfig, buckets: Sequence[Hashable]):
        self.config, self.buckets, self.batch_size = config, buckets, config.batch_size
        self.latent_shape = self.usual_shape()
        self._plan = BatchPlan(buckets, config.batch_size, seed=0)

    @abstractmethod
    def latents(self, number: int) -> Tensor:
        """Normalised latents [C, T, H, W] of a clip. Raises OSError where they cannot be read."""

    @abstractmethod
    def text(self, number: int) -> Text:
        """The embedded caption of a clip. Raises OSError where it cannot be read."""

    def first_frame(self, number: int) -> Frame:
        """What is told of the first frame of a clip. Raises OSError where it cannot be read."""
        return {}

    @abstractmethod
    def shown(self, number: int) -> str:
        """What a clip is called."""

    def identities(self) -> list[str]:
        """Tell its clips and captions, in their order, from those of another set."""
        return [f"{self.shown(number)} {bucket}" for number, bucket in enumerate(self.buckets)]

    @cached_property
    def content(self) -> str:
        """How many clips it holds, and a digest of them in their order, by which batches are drawn."""
        told = "\0".join(self.identities()).encode("utf-8", "surrogatepass")
        return f"{len(self.buckets)} clips ({hashlib.sha256(told).hexdigest()[:12]})"

    @property
    @abstractmethod
    def prompts(self) -> Sequence[str]:
        """The captions whose embeddings are at hand, but for that of no caption."""

    def usual_shape(self) -> tuple[int, int, int, int]:
        """Of the latents of the most usual bucket, which a validation clip has."""
        channels, frames, height, width = self.latents(self.buckets.index(usual(self.buckets))).shape
        return channels, frames, height, width

    def batch(self, draws: Draws) -> Batch:
        """The clips of an iteration, for the rows of ``draws``."""
        plan = self._plan  # another thread may put its own in place
        if (plan.seed, plan.batch_size) != (draws.seed, draws.count):
            self._plan = plan = BatchPlan(self.buckets, draws.count, draws.seed)
        of_iteration = plan.batch(draws.iteration)
        chosen = [of_iteration[row] for row in draws.rows]
        dropped = [float(torch.rand((), generator=each)) for each in draws.generators("caption")]
        told = [
            {**self.first_frame(number), **(self.empty if drop < self.config.text_dropout else self.text(number))}
            for number, drop in zip(chosen, dropped, strict=True)
        ]
        return Batch(self._stacked(chosen), padded(told))

    def frames_of(self, captions: Sequence[str]) -> str:
        """Tells the first frames that captions are told with from others; empty without any."""
        return ""

    def unconditional(self, conditions: Conditions) -> Conditions:
        """The same with the text of no caption, or a negative one."""
        other = padded([self.away] * len(conditions)).to(conditions.text.device)
        return replace(conditions, text=other.text, mask=other.mask, pooled=other.pooled)

    def told(self, texts: Sequence[Text]) -> Conditions:
        """Texts as a network is told them; no text makes conditions of no sample."""
        return padded(texts) if texts else padded([self.empty]).rows(slice(0))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, T, H, W] to clips [B, 3, T', H', W'] in -1..1, by an autoencoder that is let go again.

        Raises ConfigError where the backbone's encoders are not there.
        """
        name = f"training.encoders.{self.made_for}"  # found by its name, like all that a configuration names
        if find_spec(name) is None:
            raise ConfigError(f"There is no autoencoder of {self.made_for} in training/encoders to show clips with.")
        encoder = import_module(name).ENCODER(self.encoders, latents.device)
        return torch.cat([encoder.decode(each).cpu() for each in latents.split(1)])

    def verdict(self, sample: Callable[[list[str]], Tensor]) -> str:
        """Nothing: what the clips show, an eye has to say."""
        return ""

    def _stacked(self, chosen: Sequence[int]) -> Tensor:
        latents = [self.latents(number) for number in chosen]
        require_one_shape({self.shown(number): each.shape for number, each in zip(chosen, latents, strict=True)})
        return torch.stack(latents)


def require_one_shape(shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises ConfigError where clips of one bucket, by what they are called, have latents of several shapes."""
    different = {tuple(shape): source for source, shape in shapes.items()}
    if len(different) > 1:
        told = ", ".join(f"{source} {list(shape)}" for shape, source in different.items())
        raise ConfigError(f"Latents of one bucket are of several shapes: {told}. Prepare the videos anew.")


def padded(told: Sequence[Text]) -> Conditions:
    """Texts brought to the length of the longest, with a mask where they differ, and first frames with them."""
    tokens = [each["text"].float() for each in told]
    lengths = torch.tensor([len(each) for each in tokens])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    others = {name: torch.stack([each[name].float() for each in told]) for name in told[0] if name != "text"}
    return Conditions(pad_sequence(tokens, batch_first=True), None if mask.all() else mask, **others)
