"""One training batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """``latents`` [B, C, T, H, W], normalised; ``text`` [B, L, D], some rows dropped to the unconditional text."""

    latents: Tensor
    text: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.latents.to(device), self.text.to(device))
