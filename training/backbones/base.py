"""What a method needs of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from dcm_core.expert.layers import Expert, Layer

from .features import Features


class Backbone(Protocol):
    """One adapter file over a diffusers transformer. sigma in 0..1 in, velocity out; the rest is the family's own."""

    family: str

    def build(self, seed: int) -> nn.Module:
        """A network with random weights that depend on the seed alone."""
        ...

    def load(self, path: str | Path) -> nn.Module:
        """A network with the weights of a backbone file of any layout. Raises ConfigError where they do not fit."""
        ...

    def velocity(self, model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Velocity [B, C, T, H, W] at x [B, C, T, H, W], sigma [B] in 0..1, text [B, L, D]."""
        ...

    def features(self, model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor, stride: int) -> Features:
        """The tokens after blocks 0, stride, 2 stride, ..., with gradient into x."""
        ...

    def feature_shape(self, model: nn.Module, stride: int) -> tuple[int, int]:
        """(channels of a token, number of layers that ``features`` gives at this stride)."""
        ...

    def add_adapter(self, model: nn.Module, rank: int, alpha: float, seed: int) -> None:
        """Freeze model but for low-rank adapters and the layers a detail expert replaces; its output stays the same."""
        ...

    def adapter_layers(self, model: nn.Module, start: Mapping[str, Tensor]) -> dict[str, Layer]:
        """What ``add_adapter`` made trainable, by ComfyUI module name; replaced layers as difference to ``start``.

        ``start``: the values of all trainable parameters as ``add_adapter`` left them.
        """
        ...

    def apply(self, model: nn.Module, expert: Expert) -> None:
        """Add an expert to the weights of a network without adapters. Raises ConfigError where it does not fit."""
        ...

    def comfy_state(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of a network without adapters, under ComfyUI's names."""
        ...
