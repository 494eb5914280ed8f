"""Memory and compute of a network's call, counted on tensors that hold no data.

A call is counted on networks of a few blocks, from which any number of blocks follows, since all blocks of a kind are
alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Depth = Mapping[str, int]  # how much there is of each kind, as of blocks by the transformer's own arguments
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


def fewest(depth: Depth) -> dict[str, int]:
    """One block of each kind and two of the last, which are tapped: of one block alone the peak may lie at the
    network's ends."""
    few = dict.fromkeys(depth, 1)
    last = list(depth)[-1]
    return {**few, last: min(2, depth[last])}


def cost(depth: Depth, few: Depth, count: Callable[[Depth], Cost]) -> Cost:
    """The cost at a depth; ``count`` counts it at ``few`` and with one more of each kind."""
    total = base = count(few)
    for kind, number in depth.items():
        if number > few[kind]:
            one = count({**few, kind: few[kind] + 1}).plus(base, -1)
            total = total.plus(one, number - few[kind])
    return total


def counted(network: nn.Module, call: Callable[[], Tensor], trained: bool) -> Cost:
    """Of ``call``, which asks the network, and of the way back if it is trained. Its gradients are forgotten then.

    To be used within a FakeTensorMode, where tensors have shapes and dtypes and no data.
    """
    kept = 0
    with Counter() as counter:
        with torch.set_grad_enabled(trained):
            loss = call().float().square().mean()
        if trained:
            kept = counter.now
            loss.backward()
    gradients = sum(p.grad.untyped_storage().nbytes() for p in network.parameters() if p.grad is not None)
    network.zero_grad(set_to_none=True)
    return Cost(max(0, counter.peak - gradients), kept, counter.flop)


class Counter(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is open and not yet gone: ``now``, and at the ``peak``.

    ``flop``: the operations, as PyTorch counts them, in the same pass: what is slow is not the counting but the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flop = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # what autograd asks more often than anything else: no tensor is made
            return func(*args)
        output = func(*args, **(kwargs or {}))
        made = [storage for storage in _storages(output) if storage._cdata not in self._known]
        if made:
            given = {storage._cdata for storage in _storages((args, kwargs))}
            for storage in made:
                if storage._cdata not in given:  # a view, as of a weight, is not made
                    self._count(storage)
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


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (each.untyped_storage() for each in tree_iter(values) if isinstance(each, Tensor))
