"""Sums and norms of weights and differences, in float32 whatever they are stored in."""

from __future__ import annotations

import torch
from torch import Tensor


def with_difference(base: Tensor, difference: Tensor, strength: float = 1.0) -> Tensor:
    """``base + strength * difference``, summed in float32, on the device of ``base`` and in its dtype.

    A base in a one-byte storage format gives float32: rounding the sum to fp8 would lose most of the difference.
    """
    dtype = base.dtype if base.dtype.itemsize > 1 else torch.float32
    return (base.float() + strength * difference.to(base.device, torch.float32)).to(dtype)


def frobenius(tensor: Tensor) -> float:
    """The Frobenius norm, in float32 whatever the tensor is stored in."""
    plain = tensor.dtype.itemsize in (2, 4)  # PyTorch neither sums one-byte floats nor narrows on the way
    return float(torch.linalg.vector_norm(tensor if plain else tensor.float(), dtype=torch.float32))


def norm_of_product(down: Tensor, up: Tensor, scale: float) -> float:
    """Of ``scale * up @ down``, or of several that lie below each other: down [..., rank, in], up [..., out, rank]."""
    # |up @ down|^2 = <up^T up, down down^T>: needs only [rank, rank] matrices.
    down, up = down.float(), up.float()
    square = ((up.mT @ up) * (down @ down.mT)).sum().clamp(min=0)
    return abs(scale) * float(square.sqrt())
