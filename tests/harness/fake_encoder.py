"""Encoders of a family that is nobody's: latents are means of blocks, embeddings are drawn from a word's letters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from training.data.buckets import Size, SizeRule

RULE = SizeRule(usual=Size(9, 32, 48), fps=8.0, channels=3, scale=8, patch=2)


class FakeEncoder:
    """``encoded``, ``embedded``: how many clips and captions went through."""

    takes_image = False

    def __init__(self, fingerprint: str = "fake", rule: SizeRule = RULE):
        self.fingerprint, self.size_rule = fingerprint, rule
        self.encoded = self.embedded = 0

    def latents(self, frames: Tensor) -> Tensor:
        self.encoded += len(frames)
        clip = frames.float() / 127.5 - 1
        clip = torch.cat([clip[:, :, :1].expand(-1, -1, 4 - self.size_rule.lead, -1, -1), clip], 2)
        return avg_pool3d(clip, (4, 8, 8))

    def texts(self, captions: list[str]) -> list[dict[str, Tensor]]:
        if "unspeakable" in captions:
            raise ValueError("there is no word for it")
        self.embedded += len(captions)
        return [
            {"text": _drawn(caption, 1 + len(caption.split()), 6), "pooled": _drawn(caption, 5)} for caption in captions
        ]

    def first_frame(self, frame: Tensor, frames: int) -> dict[str, Tensor]:
        return {}


class FakeImageEncoder(FakeEncoder):
    """Of image to video: a frame's mean colour at each of a clip's latents, and the mean of it all.

    ``framed``: how many first frames went through.
    """

    takes_image = True

    def __init__(self):
        super().__init__("fake with images")
        self.framed = 0

    def first_frame(self, frame: Tensor, frames: int) -> dict[str, Tensor]:
        self.framed += 1
        _, time, height, width = self.size_rule.latent_shape(Size(frames, *frame.shape[1:]))
        colour = frame.float().mean((1, 2))
        return {"image": colour.view(3, 1, 1, 1).expand(3, time, height, width), "vision": colour.mean().view(1, 1)}


def _drawn(caption: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(caption.encode())))
