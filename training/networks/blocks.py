"""What is wrapped around the blocks of a network: compiled code, weights that come and go, checkpoints.

Their ``forward`` is wrapped, in this order from the inside, once all copies and adapters of the network are made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ..config import ComputeConfig
from .attention import attention
from .narrow import narrow, narrowed
from .network import Network
from .precision import keep_time, widen_norms

Forward = Callable[..., Any]
_ATTENTION = [
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
]


def place(network: Network, device: torch.device, compute: ComputeConfig) -> None:
    """Put a network onto a device, but for frozen weights of its blocks that are not held there as they are."""
    kept = [(p, p.data) for block in network.blocks for p in _apart(block, compute)]
    for parameter, home in kept:
        parameter.data = home.new_empty(0)
    network.to(device)
    for parameter, home in kept:
        parameter.data = home


def prepare(network: Network, compute: ComputeConfig, backend: str | None, device: torch.device) -> None:
    """Make a network that is placed compute as the configuration says. ``backend``: of torch.compile, if any."""
    network.compute_dtype = getattr(torch, compute.dtype)
    if compute.dtype != "float32":
        keep_time(network)
        if device.type == "cpu":
            widen_norms(network)
    if compute.recomputing:
        network.head = _checkpointed(network.head, network, selective=False)  # each layer of features goes through it
    for block in network.blocks:
        if compute.base is not None:
            narrow(block, compute.base, network.compute_dtype, None if compute.offload else device)
        if backend is not None:
            block.forward = torch.compile(block.forward, backend=backend)
        if compute.offload:
            block.forward = _visiting(block, device)
        if compute.recomputing:
            block.forward = _checkpointed(block.forward, network, compute.checkpointing == "selective")


def _checkpointed(forward: Forward, network: Network, selective: bool) -> Forward:
    """Computed again by the backward pass, with the adapters that acted in the call and not those that act then."""
    keep = partial(create_selective_checkpoint_contexts, _ATTENTION) if selective else _nothing_kept

    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        adapters = tuple(network.acting)

        def again(*args: Any, **kwargs: Any) -> Any:
            with attention(), network.having(adapters):
                return forward(*args, **kwargs)

        return checkpoint(again, *args, use_reentrant=False, context_fn=keep, **kwargs)

    return call


def _nothing_kept() -> tuple[nullcontext, nullcontext]:
    return nullcontext(), nullcontext()


def _visiting(block: nn.Module, device: torch.device) -> Forward:
    """The block's frozen weights are on the device while it runs, and at home in main memory else.

    What the graph of a block that is computed again needs of them stays there until its backward pass is through.
    """
    forward, homes = block.forward, [(p, _home(p, device)) for p in _frozen(block)]

    def call(*args: Any, **kwargs: Any) -> Any:
        for parameter, home in homes:
            parameter.data = home.to(device, non_blocking=True, copy=True)
        try:
            return forward(*args, **kwargs)
        finally:
            for parameter, home in homes:
                parameter.data = home

    return call


def _home(parameter: nn.Parameter, device: torch.device) -> torch.Tensor:
    """The weight in main memory, where a copy to a GPU can begin without waiting, if there is one.

    It is the parameter's own from now on: a checkpoint or an average that is written into that reaches every call.
    """
    if device.type == "cuda":
        parameter.data = parameter.data.pin_memory()
    return parameter.data


def _apart(block: nn.Module, compute: ComputeConfig) -> list[nn.Parameter]:
    """What comes to the device for a call, or when it has become narrow."""
    if compute.offload:
        return _frozen(block)
    return [layer.weight for layer in narrowed(block)] if compute.base else []


def _frozen(block: nn.Module) -> list[nn.Parameter]:
    return [p for p in block.parameters() if not p.requires_grad]
