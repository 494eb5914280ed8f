"""Noise on latents, and the draws of noise levels: what the methods share."""

import torch
from torch import Tensor


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = sigma * noise + (1 - sigma) * latents, with latents and noise [B, C, T, H, W] and sigma [B]."""
    sigma = column(sigma)
    return sigma * noise + (1 - sigma) * latents


def drawn_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of latents."""
    return torch.randn(latents.shape, generator=generator, device=latents.device)


def jump(x: Tensor, velocity: Tensor, sigma: Tensor, end: Tensor) -> Tensor:
    """The Euler step x + (end - sigma) * velocity, x [B, C, T, H, W], sigma and end [B]."""
    return x + column(end - sigma) * velocity


def draw_indices(span: range, count: int, generator: torch.Generator) -> Tensor:
    """[count] indices, each uniform in span. One stratum per sample: less variance between batches."""
    device = generator.device
    strata = torch.randperm(count, generator=generator, device=device)
    u = (strata + torch.rand(count, generator=generator, device=device)) / count
    return span.start + (u * len(span)).long().clamp(max=len(span) - 1)


def column(per_sample: Tensor) -> Tensor:
    """One number per sample [B], to multiply latents [B, C, T, H, W] with."""
    return per_sample.view(-1, 1, 1, 1, 1)


def renoised(x: Tensor, noise: Tensor, sigma: Tensor, higher: Tensor) -> Tensor:
    """x [B, C, T, H, W] at noise level sigma [B] taken up to `higher` [B] >= sigma with fresh noise.

    ((1 - higher) x + (higher - sigma) noise) / (1 - sigma): the clean part is then as strong as at `higher`.
    """
    sigma, higher = column(sigma), column(higher)
    return ((1 - higher) * x + (higher - sigma) * noise) / (1 - sigma)
