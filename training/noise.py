"""Latents at noise levels, in flow matching: ``x_sigma = sigma * noise + (1 - sigma) * latents``."""

from __future__ import annotations

from torch import Tensor


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x_sigma`` [B, C, T, H, W] from latents and noise of that shape and sigma [B]."""
    sigma = column(sigma)
    return sigma * noise + (1 - sigma) * latents


def renoised(x: Tensor, noise: Tensor, sigma: Tensor, higher: Tensor) -> Tensor:
    """x [B, C, T, H, W] at noise level sigma [B] taken up to ``higher`` [B] >= sigma with fresh noise.

    ``((1 - higher) x + (higher - sigma) noise) / (1 - sigma)``: the clean part is then as strong as at ``higher``.
    """
    sigma, higher = column(sigma), column(higher)
    return ((1 - higher) * x + (higher - sigma) * noise) / (1 - sigma)


def column(per_sample: Tensor) -> Tensor:
    """One number per sample [B], to multiply latents [B, C, T, H, W] with."""
    return per_sample.view(-1, 1, 1, 1, 1)
