"""What the encoders of all families of diffusers have in common: in which order they come and go, and normalisation."""

from __future__ import annotations

import logging
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from ..data.buckets import SizeRule
from .folder import Layout, PipelineFolder

logger = logging.getLogger(__name__)


class PipelineEncoder(ABC):
    """Loads the text encoders for the first caption, and lets them go for the autoencoder with the first frames.

    Captions go through ``encode_prompt`` of the family's own pipeline. ``tokens``: the most that the network is given
    of one; ``precision``: what else decides about bits, for the fingerprint.
    """

    layout: Layout
    tokens: int
    precision: str
    takes_image = False

    def __init__(self, weights: str | None, device: torch.device):
        self.device = device
        self.folder = PipelineFolder(weights, self.layout)
        self.size_rule: SizeRule = self.rule()
        self.fingerprint = self.folder.fingerprint(f"{self.tokens} tokens, {self.precision}, mode")
        self._pipeline: Any = None
        self._autoencoder: Any = None

    @abstractmethod
    def rule(self) -> SizeRule:
        """Which clips the backbone takes, by the configs in the folder."""

    @abstractmethod
    def text_pipeline(self) -> Any:
        """The family's pipeline with its text encoders and nothing else."""

    @abstractmethod
    def embedded(self, pipeline: Any, captions: list[str]) -> list[dict[str, Tensor]]:
        """What the pipeline makes of each caption."""

    @abstractmethod
    def autoencoder(self) -> Any:
        """The family's autoencoder."""

    @abstractmethod
    def statistics(self, config: Any) -> tuple[Tensor, Tensor]:
        """What is taken from latents, and by what they are multiplied then, each [C] or [1], by its config."""

    def texts(self, captions: list[str]) -> list[dict[str, Tensor]]:
        """See ``Encoder``. The end of a caption that is too long is cut, and that is logged."""
        if self._pipeline is None:
            self._pipeline = self.text_pipeline()
        with torch.no_grad(), _quiet():
            embedded = self.embedded(self._pipeline, captions)
        return [{name: tensor.cpu().clone() for name, tensor in each.items()} for each in embedded]

    def latents(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W], uint8 or in -1..1, to normalised latents [B, C, t, h, w].

        The mean of each distribution: a draw would differ by less than the autoencoder's own error, and would make a
        cache that no second run makes again.
        """
        model = self._only_autoencoder()
        frames = frames.to(self.device)
        pixels = frames / 127.5 - 1 if frames.dtype == torch.uint8 else frames
        with torch.no_grad():
            raw = model.encode(pixels.to(model.dtype)).latent_dist.mode().float()
        less, factor = self._normalisation(model)
        return (raw - less) * factor

    def first_frame(self, frame: Tensor, frames: int) -> dict[str, Tensor]:
        """See ``Encoder``."""
        return {}

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, t, h, w] to frames [B, 3, T, H, W] in -1..1."""
        model = self._only_autoencoder()
        less, factor = self._normalisation(model)
        raw = latents.to(self.device).float() / factor + less
        with torch.no_grad():
            return self.decoded(model, raw.to(model.dtype)).float().clamp(-1, 1)

    def decoded(self, model: Any, raw: Tensor) -> Tensor:
        return model.decode(raw).sample

    def kept(self, caption: str, count: int) -> int:
        """How many of its tokens the network is given; that it is not all is logged."""
        if count > self.tokens:
            begin = textwrap.shorten(caption, 60, placeholder=" ...")
            logger.warning(f"{begin!r} has {count} tokens, of which the network reads the first {self.tokens}.")
        return min(count, self.tokens)

    def _only_autoencoder(self) -> Any:
        if self._autoencoder is None:
            if self._pipeline is not None:
                self._pipeline = None
                torch.cuda.empty_cache()
            self._autoencoder = self.autoencoder()
        return self._autoencoder

    def _normalisation(self, model: Any) -> tuple[Tensor, Tensor]:
        less, factor = self.statistics(model.config)
        return less.view(1, -1, 1, 1, 1).to(self.device), factor.view(1, -1, 1, 1, 1).to(self.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own word on what is cut: with HunyuanVideo they have one on nearly every caption."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
