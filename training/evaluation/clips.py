"""What can be measured of two sets of clips beside each other."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d


def high_frequency_ratio(clips: Tensor, reference: Tensor) -> float:
    """The energy of what a 3 x 3 blur takes away from clips [B, 3, T, H, W], over that of the reference.

    Below 1 they are blurred, above 1 sharper or noisier. 1 for a reference without any.
    """
    value, wanted = float(high_frequency(clips).mean()), float(high_frequency(reference).mean())
    return value / wanted if wanted else 1.0


def high_frequency(clips: Tensor) -> Tensor:
    """[B]: the energy of what a 3 x 3 blur takes away from the frames of clips or latents [B, C, T, H, W]."""
    frames = clips.float().transpose(1, 2)
    flat = frames.flatten(0, 1)
    sharp = flat - avg_pool2d(flat, 3, 1, 1, count_include_pad=False)
    return sharp.view_as(frames).square().flatten(1).mean(1)
