"""Random weights that leave no layer of a tiny network without a say in its output."""

import torch
from torch import nn


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Weights of a size that keeps activations near 1, so that every layer matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and parameter.ndim == 1 and not name.endswith("bias"):
            parameter.data = 1 + 0.1 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.1 * noise
        else:
            parameter.data = noise / parameter[0].numel() ** 0.5
    return network
