"""Frozen matrices of blocks that are held in 8 or 4 bits, and widened for each call.

What was widened stands in the graph until the way back is through: blocks that are computed again keep none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..config import Base
from ..errors import ConfigError

_KEPT = ("norm", "lora_", "twins")  # of a block's modules, what stays as it is
_GROUP = 64  # values of nf4 that share a scale in float32
BYTES: dict[Base, float] = {"fp8": 1, "nf4": 0.5 + 4 / _GROUP}  # of a value


def check_base(base: Base | None) -> None:
    """Raises ConfigError where what it needs is not installed."""
    if base == "nf4" and find_spec("bitsandbytes") is None:
        raise ConfigError("compute.base=nf4 needs bitsandbytes: pip install bitsandbytes, or use compute.base=fp8.")


def narrowed(block: nn.Module) -> Iterator[Any]:
    """The linear layers of a block whose matrices are held so."""
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear) and not any(part in name for part in _KEPT):
            if not layer.weight.requires_grad:
                yield layer


def narrow(block: nn.Module, base: Base, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Hold them so from now on, one after the other brought to ``device`` or left where they are.

    They compute in ``dtype``.
    """
    hold = {"fp8": _in_8_bits, "nf4": _in_4_bits}[base]
    for layer in narrowed(block):
        layer.weight.data = layer.weight.data.to(device)
        layer.forward = _widening(layer, hold(layer.weight, dtype))


def _widening(layer: Any, widened: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: linear(x, widened(), layer.bias)


def _in_8_bits(weight: nn.Parameter, dtype: torch.dtype) -> Callable[[], Tensor]:
    weight.data = weight.data.to(torch.float8_e4m3fn)
    return lambda: weight.to(dtype)


def _in_4_bits(weight: nn.Parameter, dtype: torch.dtype) -> Callable[[], Tensor]:
    """By bitsandbytes. The weight itself keeps its shape, which fingerprints are made of, and no values."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # pyright: ignore[reportMissingImports]

    packed, state = quantize_4bit(weight.data.to(dtype), blocksize=_GROUP, quant_type="nf4")
    weight.data = weight.data.new_zeros(()).expand(weight.shape)
    return lambda: dequantize_4bit(packed, state)
