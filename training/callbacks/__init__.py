"""Callbacks: what happens around the iterations. Each is one small file."""

from .base import Callback
from .ema import ExponentialAverage
from .log import Log

__all__ = ["Callback", "ExponentialAverage", "Log"]
