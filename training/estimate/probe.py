"""Memory and compute of a network's call, counted on tensors that hold no data.

A call is counted on networks of two and of three blocks, from which any number of blocks follows, since all blocks of a
kind are alike.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Depth = Mapping[str, int]  # how many blocks of each kind, by the names of the transformer's own arguments
_FEW = 2  # of one block alone the peak may lie at the network's ends
_OPERATIONS: dict[Any, Callable[..., int]] = {  # of attention on a CPU too, which PyTorch itself does not count
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of one call. ``memory``: bytes at its peak, beside weights and their gradients; ``kept``: bytes that wait for the
    way back. ``flop``: operations."""

    memory: float
    kept: float
    flop: float

    def plus(self, other: Cost, times: float = 1) -> Cost:
        return Cost(self.memory + times * other.memory, self.kept + times * other.kept, self.flop + times * other.flop)


def cost(depth: Depth, count: Callable[[Depth], Cost]) -> Cost:
    """The cost at a depth; ``count`` counts it at a smaller one."""
    few = {kind: min(_FEW, blocks) for kind, blocks in depth.items()}
    total = base = count(few)
    for kind, blocks in depth.items():
        if blocks > few[kind]:
            block = count({**few, kind: few[kind] + 1}).plus(base, -1)
            total = total.plus(block, blocks - few[kind])
    return total


def counted(network: nn.Module, call: Callable[[], Tensor], trained: bool) -> Cost:
    """Of ``call``, which asks the network, and of the way back if it is trained. To be used within ``without_data``."""
    kept = 0
    with Counter() as counter:
        with torch.set_grad_enabled(trained):
            loss = call().float().square().mean()
        if trained:
            kept = counter.now
            loss.backward()
    gradients = sum(p.grad.untyped_storage().nbytes() for p in network.parameters() if p.grad is not None)
    return Cost(max(0, counter.peak - gradients), kept, counter.flop)


@contextmanager
def without_data() -> Iterator[None]:
    """Inside this context tensors have shapes and dtypes and no data; networks come in by ``to_empty``."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # of a norm that is in float32
        yield


class Counter(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is open and not yet gone: ``now``, and at the ``peak``.

    ``flop``: the operations, as PyTorch counts them, in the same pass: what is slow is not the counting but the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flop = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for each in tree_iter(output):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        if operations := _OPERATIONS.get(func._overloadpacket):
            self.flop += operations(*args, **(kwargs or {}), out_val=output)
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size
