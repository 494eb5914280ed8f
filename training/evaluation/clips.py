"""What can be measured of two sets of clips beside each other."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d


def motion_ratio(clips: Tensor, reference: Tensor) -> float:
    """How much the pixels of clips [B, 3, T, H, W] change from frame to frame, over how much the reference's do.

    0 is a still picture, 1 as much motion. Where the reference is still, there is nothing to compare: 1.
    """
    return _ratio(_motion(clips), _motion(reference))


def high_frequency_ratio(clips: Tensor, reference: Tensor) -> float:
    """The energy of what a 3 x 3 blur takes away from clips [B, 3, T, H, W], over that of the reference.

    Below 1 they are blurred, above 1 sharper or noisier. 1 for a reference without any.
    """
    return _ratio(_high_frequency(clips), _high_frequency(reference))


def _motion(clips: Tensor) -> float:
    return float(clips.float().diff(dim=2).abs().mean()) if clips.shape[2] > 1 else 0.0


def _high_frequency(clips: Tensor) -> float:
    frames = clips.float().transpose(1, 2).flatten(0, 1)
    return float((frames - avg_pool2d(frames, 3, 1, 1, count_include_pad=False)).square().mean())


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else 1.0
