"""The Shapes world's backbone: the Wan class at the size of this world."""

from __future__ import annotations

from dcm_core.shapes.network import ARCHITECTURE

from .wan import WanBackbone, WanNetwork


class ShapesNetwork(WanNetwork):
    """Its texts have eight places for words, and no padding."""

    text_tokens = 0


class ShapesBackbone(WanBackbone):
    """A Wan network small enough for a CPU."""

    network = ShapesNetwork
    sizes = {}
    architecture = ARCHITECTURE


BACKBONE = ShapesBackbone
