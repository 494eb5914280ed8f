"""Random draws. What an iteration draws depends on (seed, iteration) alone, so a resume needs no generator's state."""

from __future__ import annotations

import torch
from torch import Tensor


def random_generator(seed: int, iteration: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one iteration."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + iteration)


def drawn_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of ``latents``."""
    return torch.randn(latents.shape, generator=generator, device=latents.device)


def draw_indices(span: range, count: int, generator: torch.Generator) -> Tensor:
    """[count] indices, each uniform in ``span``."""
    u = stratified(torch.randperm(count, generator=generator, device=generator.device), generator)
    return span.start + (u * len(span)).long().clamp(max=len(span) - 1)


def stratified(strata: Tensor, generator: torch.Generator) -> Tensor:
    """One draw in 0..1 from each stratum: [B] from ``strata`` [B], the numbers 0..B-1 in any order.

    The draws of a batch are uniform together, with less variance between batches than independent ones.
    """
    count = len(strata)
    return (strata + torch.rand(count, generator=generator, device=strata.device)) / count
