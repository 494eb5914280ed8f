"""What attention is tried on, and the exact way of it."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def exact(q, k, v, scale):
    return scaled_dot_product_attention(q, k, v, scale=scale)


def inputs(tokens=7, heads=2, width=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, tokens, heads * width, generator=generator) for _ in range(3)]
