"""Data sets: an object with `batch(iteration) -> Batch` whose randomness depends on (seed, iteration) alone."""

from typing import Protocol

from torch import Tensor

from ..config import ConfigError, DataConfig
from .batch import Batch
from .shapes import ShapesData

DATASETS = {"shapes": ShapesData}


class Data(Protocol):
    """What a method needs of a data set."""

    latent_shape: tuple[int, ...]
    batch_size: int

    def batch(self, iteration: int) -> Batch: ...

    def text(self, captions: list[str]) -> Tensor:
        """[B, L, D]; the empty caption is the unconditional text. Raises ValueError for a caption it cannot encode."""

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, T, H, W] to clips [B, 3, T', H', W'] in -1..1."""


def build_data(config: DataConfig, seed: int) -> Data:
    """The data set a configuration names. Raises ConfigError."""
    if config.name not in DATASETS:
        raise ConfigError(f"data.name={config.name!r} is unknown; there are: {', '.join(DATASETS)}.")
    return DATASETS[config.name](config, seed)


__all__ = ["DATASETS", "Batch", "Data", "build_data"]
