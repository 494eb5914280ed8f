"""Computing in 16 bits without losing what needs 32: the noise level, norms, and whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)
_TIME = "time"  # what diffusers' classes call the modules of the noise level; in 16 bits 981.8 would be 980


def lowered(network: nn.Module) -> set[str]:
    """Which weights are held in 16 bits while they are frozen: matrices of linear and convolution layers, but for those
    of the noise level."""
    return {f"{name}.weight" for name, _ in _layers(network, of_time=False)}


def keep_time(network: nn.Module) -> None:
    """Let the layers of the noise level compute in float32, whatever the rest does."""
    for _, layer in _layers(network, of_time=True):
        layer.forward = _in_float32(layer.forward)


def widen_norms(network: nn.Module) -> None:
    """Let RMS norms see their input in float32, as their weights are and as autocast does it on a GPU alone: on a CPU
    PyTorch would cast it as well, to the same numbers, and warn that it does."""
    norms: list[Any] = [layer for layer in network.modules() if isinstance(layer, nn.RMSNorm)]
    for norm in norms:
        norm.forward = _widened(norm.forward)


def _layers(network: nn.Module, of_time: bool) -> Iterator[tuple[str, Any]]:
    for name, layer in network.named_modules():
        if isinstance(layer, _LAYERS) and (_TIME in name) == of_time:
            yield name, layer


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return call


def _widened(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: forward(x.float()).to(x.dtype)
