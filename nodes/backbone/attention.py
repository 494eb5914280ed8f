"""Exact attention in several ways: which of them a machine has, and which is the fastest for a shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# Queries, keys and values [B, heads, tokens, width] and a scale (None is the usual one) to [B, heads, tokens, width].
Attention = Callable[[Tensor, Tensor, Tensor, "float | None"], Tensor]

HOST = "ComfyUI's own"
BY = 1.05  # how many times faster than the host's own another way has to be
_ROUNDS = 3


class Choice(NamedTuple):
    """A way by its name, and how many times faster than the host's own it was."""

    name: str
    times: float = 1.0


def of_pytorch(backend: SDPBackend) -> Attention:
    """PyTorch's attention by one back end; raises RuntimeError where that does not take the shape or the machine."""

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, scale=scale)

    return attention


def flash_attention_3(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """FlashAttention 3, of the package flash_attn_interface."""
    from flash_attn_interface import flash_attn_func

    return _tokens_first(flash_attn_func, q, k, v, scale)


def flash_attention_4(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """FlashAttention 4, of the package flash_attn."""
    from flash_attn.cute import flash_attn_func

    return _tokens_first(flash_attn_func, q, k, v, scale)


def _tokens_first(function: Any, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    out = function(*(each.transpose(1, 2) for each in (q, k, v)), softmax_scale=scale)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


WAYS: dict[str, Attention] = {
    "cuDNN": of_pytorch(SDPBackend.CUDNN_ATTENTION),
    "flash": of_pytorch(SDPBackend.FLASH_ATTENTION),
    "memory-efficient": of_pytorch(SDPBackend.EFFICIENT_ATTENTION),
    "FlashAttention 3": flash_attention_3,
    "FlashAttention 4": flash_attention_4,
}


def asked_for(name: str) -> Attention:
    """A way that nothing else steps in for; it raises ValueError with what to do where it does not run."""
    if torch.compiler.is_compiling():
        return WAYS[name]

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        try:
            return WAYS[name](q, k, v, scale)
        except torch.cuda.OutOfMemoryError:
            raise
        except (ImportError, RuntimeError) as error:
            size = f"{q.shape[2]} x {k.shape[2]} tokens of {q.shape[3]} in {q.dtype}"
            raise ValueError(
                f"{name} attention does not run here at {size} ({error}). Set attention of DCM Attention to fastest."
            ) from error

    return attention


def fastest(host: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Choice:
    """The fastest of the ways that give what the host's own gives, within rounding, on these inputs.

    The inputs should be few heads of real ones: their results are all that this takes of memory.
    """
    expected, own = host(q, k, v, scale), seconds(host, q, k, v, scale)
    best = Choice(HOST)
    for name, attention in WAYS.items():
        try:
            if agrees(attention(q, k, v, scale), expected):
                times = own / seconds(attention, q, k, v, scale)
                best = max(best, Choice(name, times), key=lambda each: each.times)
        except Exception:  # whatever a way raises that is not there, or does not take the shape
            continue
    return best if best.times >= BY else Choice(HOST)


def agrees(result: Tensor, expected: Tensor) -> bool:
    """Do two results differ by no more than two ways of rounding?"""
    # False for NaN too
    return result.shape == expected.shape and distance(result, expected) <= 2 * torch.finfo(expected.dtype).eps


def distance(result: Tensor, expected: Tensor) -> float:
    """How far off a result is, in lengths of what was expected."""
    return float((result.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))


def seconds(attention: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> float:
    """The shortest of a few calls; the first, which may look for a plan, is not counted."""
    attention(q, k, v, scale)
    taken = []
    for _ in range(_ROUNDS):
        synchronize(q.device)
        start = time.perf_counter()
        attention(q, k, v, scale)
        synchronize(q.device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
