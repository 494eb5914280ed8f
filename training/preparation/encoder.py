"""What the preparation needs of a backbone's autoencoder and text encoders: a file in ``training/encoders``."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..data.buckets import SizeRule


class Encoder(Protocol):
    """Made from ``(weights, device)``: a folder or hub name, or none, and a torch.device.

    Making one reads what ``fingerprint`` and ``size_rule`` need and no more: a dry run does no more. ``texts`` is
    called first, for all captions, and never again once ``latents`` was, so that the text encoders can be let go then.

    ``fingerprint``: changes with whatever changes what comes out: weights, kind and settings of the encoders.
    ``takes_image``: are they those of image to video?
    """

    fingerprint: str
    size_rule: SizeRule
    takes_image: bool

    def latents(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W], uint8 or floats in -1..1, to normalised latents [B, C, t, h, w].

        Equal frames give equal latents: the mean of the autoencoder's distribution, or a draw of a fixed seed.
        """
        ...

    def texts(self, captions: list[str]) -> list[dict[str, Tensor]]:
        """For each caption ``text`` [L, D] without padding, and ``pooled`` [P] where the network takes it.

        Raises ValueError for a caption that it cannot encode.
        """
        ...

    def first_frame(self, frame: Tensor, frames: int) -> dict[str, Tensor]:
        """What networks of image to video are told of the first frame, uint8 [3, H, W], of a clip of so many frames:
        ``image`` [C, t, h, w], channels beside the latents, and ``vision`` [N, D], an embedding, where they take one.

        Text to video is told nothing.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, t, h, w] to frames [B, 3, T, H, W] in -1..1, to look at while training."""
        ...
