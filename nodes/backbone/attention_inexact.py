"""Attention that computes with fewer bits, taken on request alone, and measured when it is first used."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.ldm.modules import attention as host_attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .attention import Attention, distance, seconds

ACTING = "dcm_acting"  # among the transformer options: the expert whose call it is, "semantic" or "detail"
_HALF = (torch.float16, torch.bfloat16)

log = logging.getLogger("DCM")


def sage_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """SageAttention, of the package sageattention."""
    from sageattention import sageattn

    return sageattn(q, k, v, tensor_layout="HND", sm_scale=scale)


def int8_of_the_host(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """What newer versions of ComfyUI have for --use-ck-attention."""
    scaled = {} if scale is None else {"scale": scale}
    return _int8()(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, **scaled)


def _int8() -> Any:
    return host_attention.get_attention_function("comfy_kitchen_int8", None)


INEXACT: dict[str, Attention] = {"SageAttention": sage_attention, "ComfyUI's INT8": int8_of_the_host}


def require(name: str) -> None:
    """Raises ValueError for a way that is not there, with what to do."""
    remedy = ""
    if INEXACT[name] is sage_attention and importlib.util.find_spec("sageattention") is None:
        remedy = "install the package sageattention"
    if INEXACT[name] is int8_of_the_host and _int8() is None:
        remedy = "update ComfyUI and its comfy-kitchen"
    if remedy:
        raise ValueError(f"{name} is not there: {remedy}, or set inexact to never.")


@dataclass(frozen=True)
class Inexact:
    """A way by its name, for all calls of the network or for the detail expert's alone.

    ``tell`` is called with what is measured at the first call of each size.
    """

    name: str
    everywhere: bool
    tell: Callable[[str], Any]
    _measured: set[tuple[int, int, int]] = field(default_factory=set, init=False)

    def is_for(self, q: Tensor, options: dict[str, Any]) -> bool:
        """Is it asked for in this call? Never where the host's network says that it takes none."""
        if q.dtype not in _HALF or options.get("low_precision_attention") is False:
            return False
        return self.everywhere or (options.get("transformer_options") or {}).get(ACTING) == "detail"

    def measured(self, host: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Attention:
        """The way itself, after it was measured on one head of [B, heads, tokens, width], if it has not been at this
        size. ``host``: what it stands in for."""
        sizes = int(q.shape[2]), int(k.shape[2]), int(q.shape[3])
        if torch.compiler.is_compiling():
            measured_in_graph(self.name, *sizes, str(q.dtype), str(q.device))
        elif sizes not in self._measured:
            self._measured.add(sizes)
            head = (q[:1, :1], k[:1, :1], v[:1, :1], scale)
            times = seconds(host, *head) / seconds(INEXACT[self.name], *head)
            self.tell(f"{off(self.name, *head)}, {times:.2f} times as fast as ComfyUI's own")
        return INEXACT[self.name]


def off(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> str:
    """How far a way is from exact attention on these tensors, in words."""
    error = distance(INEXACT[name](q, k, v, scale), scaled_dot_product_attention(q, k, v, scale=scale))
    return f"attention at {q.shape[2]} x {k.shape[2]} tokens: {name}, off by {error:.2%} from exact attention"


@torch.compiler.assume_constant_result
def measured_in_graph(name: str, queries: int, keys: int, width: int, dtype: str, device: str) -> None:
    """The same while a graph is traced, where there are no numbers yet: on random ones."""
    like = {"dtype": getattr(torch, dtype.removeprefix("torch.")), "device": device}
    q, k, v = (torch.randn(1, 1, tokens, width, **like) for tokens in (queries, keys, keys))
    log.info("DCM: %s, on random numbers", off(name, q, k, v, None))
