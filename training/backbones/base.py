"""What a method needs of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from dcm_core.expert.layers import Expert, Layer

from ..networks.network import Network


class Backbone(Protocol):
    """One adapter file over a diffusers transformer: how it is built, called, adapted, read and written."""

    family: str

    def build(self, seed: int) -> Network:
        """A network with random weights that depend on the seed alone."""
        ...

    def load(self, path: str | Path) -> Network:
        """A network with the weights of a backbone file of any layout. Raises ConfigError where they do not fit."""
        ...

    def feature_shape(self, network: Network, stride: int) -> tuple[int, int]:
        """(channels of a token, number of layers of features that the network gives at this stride)."""
        ...

    def add_adapter(self, network: Network, name: str, rank: int, alpha: float, seed: int) -> None:
        """Freeze the network and give it an adapter, over those that act now: pairs of low rank, and twins of the
        layers that a detail expert replaces. Its output stays."""
        ...

    def adapter_layers(self, network: Network, adapters: Sequence[str]) -> dict[str, Layer]:
        """What the last of these adapters changes over the others, by ComfyUI module name; nothing for no adapter."""
        ...

    def lay(self, network: Network, expert: Expert, name: str) -> None:
        """Give the network a low-rank expert as a frozen adapter. Raises ConfigError where it is none or misfits."""
        ...

    def apply(self, network: Network, expert: Expert) -> None:
        """Add an expert to the weights of a network without adapters. Raises ConfigError where it does not fit."""
        ...

    def comfy_state(self, network: Network) -> dict[str, Tensor]:
        """The weights of a network below its adapters, under ComfyUI's names."""
        ...
