"""The Shapes world's backbone: the Wan class at the size of this world."""

from __future__ import annotations

from dcm_core.shapes import render
from dcm_core.shapes.captions import TEXT_TOKENS
from dcm_core.shapes.network import ARCHITECTURE, LATENT_SHAPE

from ..data.buckets import Size
from ..networks.network import Network
from .wan import WanBackbone, WanNetwork


class ShapesNetwork(WanNetwork):
    """Its texts have eight places for words, and no padding."""

    text_tokens = 0


class ShapesBackbone(WanBackbone):
    """A Wan network small enough for a CPU."""

    network = ShapesNetwork
    usual = Size(render.FRAMES, render.SIZE, render.SIZE)
    text_tokens = TEXT_TOKENS
    sizes = {}
    architecture = ARCHITECTURE

    def latents(self, network: Network, size: Size) -> tuple[int, int, int, int]:
        """There is one size alone."""
        return LATENT_SHAPE

    def size(self, latents: tuple[int, int, int, int]) -> Size:
        return self.usual


BACKBONE = ShapesBackbone
