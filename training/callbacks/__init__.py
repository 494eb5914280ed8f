"""Callbacks: what happens around the iterations. Each is one small file."""

from ..config import Config
from .base import Callback
from .ema import ExponentialAverage
from .export import Export
from .log import Log
from .tensorboard import TensorBoard
from .validation import Validation


def build_callbacks(config: Config) -> list[Callback]:
    """The callbacks of the selected stage, in the order of their calls."""
    decay = config.selected().ema_decay
    average = [] if decay is None else [ExponentialAverage(decay)]
    return [Log(config.log_every), TensorBoard(), *average, Validation(), Export()]


__all__ = ["Callback", "ExponentialAverage", "build_callbacks"]
