"""Computing in 16 bits without losing what needs 32: the noise level, norms, and whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)
_TIME = "time"  # what diffusers' classes call the modules of the noise level; in 16 bits 981.8 would be 980


def lower_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """Hold the frozen matrices of linear and convolution layers in this dtype, but for those of the noise level."""
    for layer in _matrices(network, of_time=False):
        if not layer.weight.requires_grad:
            layer.weight.data = layer.weight.data.to(dtype)


def keep_time(network: nn.Module) -> None:
    """Let the layers of the noise level compute in float32, whatever the rest does."""
    for layer in _matrices(network, of_time=True):
        layer.forward = _in_float32(layer.forward)


def _matrices(network: nn.Module, of_time: bool) -> Iterator[Any]:
    for name, layer in network.named_modules():
        if isinstance(layer, _LAYERS) and (_TIME in name) == of_time:
            yield layer


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return call
