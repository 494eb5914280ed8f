"""The encoders of the Shapes world: a linear autoencoder and a table of words."""

from __future__ import annotations

import torch
from torch import Tensor

from dcm_core.files.stream import TensorDigest
from dcm_core.shapes import autoencoder, network, render
from dcm_core.shapes.captions import VOCABULARY, encode_text

from ..data.buckets import Size, SizeRule
from ..errors import ConfigError


class ShapesEncoder:
    """Ships with the project: there are no weights to name."""

    size_rule = SizeRule(
        usual=Size(render.FRAMES, render.SIZE, render.SIZE),
        fps=render.FRAMES_PER_SECOND,
        channels=network.LATENT_SHAPE[0],
        scale=autoencoder.SPACE_FACTOR,
        stride=autoencoder.TIME_FACTOR,
        lead=0,
        only=True,
    )
    takes_image = False

    def __init__(self, weights: str | None, device: torch.device):
        if weights is not None:
            raise ConfigError("The encoders of the Shapes world ship with the project: leave --weights out.")
        self.device = device
        digest = TensorDigest(" ".join(VOCABULARY).encode())
        digest.add_all(autoencoder.weights())
        self.fingerprint = digest.text()

    def latents(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W], uint8 or in -1..1, to latents [B, 16, T/4, H/2, W/2]."""
        frames = frames.to(self.device)
        return autoencoder.encode(frames / 127.5 - 1 if frames.dtype == torch.uint8 else frames)

    def texts(self, captions: list[str]) -> list[dict[str, Tensor]]:
        """All eight word places of each caption. Raises ValueError for an unknown word."""
        return [{"text": row} for row in encode_text(captions)]

    def first_frame(self, frame: Tensor, frames: int) -> dict[str, Tensor]:
        """Nothing: it is text to video."""
        return {}

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 16, T, H, W] to frames [B, 3, 4T, 2H, 2W] in -1..1."""
        return autoencoder.decode(latents)


ENCODER = ShapesEncoder
