"""The Shapes world's backbone: the Wan class at the size of this world."""

from __future__ import annotations

from dcm_core.shapes import network

from .wan import WanBackbone


class ShapesBackbone(WanBackbone):
    """A Wan network small enough for a CPU."""

    architecture = {**WanBackbone.architecture, **network.ARCHITECTURE}


BACKBONE = ShapesBackbone
