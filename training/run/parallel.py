"""How a network is made ready for training, in the one order that works, and how its weights come together again.

Adapters are there already when a network comes here, and optimizers are made of what leaves: an adapter that came after
would silently not be split, and an optimizer that was made before would step tensors that are no weights any more.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from .world import World


def split(network: Any, world: World) -> None:
    """Share the tokens and the weights of a network, with its adapters, among the processes, if there are several.

    A copy of it has to be made before: a network that is split cannot be copied.
    """
    if world.mesh is None:
        return
    if world.context is not None:
        network.share_context(world.context)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing is changed in place here
    # What is gathered for a call is given back after it, the root's own weights too: values that are put in place
    # between two calls, as those of an average, would not be seen otherwise.
    for module in (*network.blocks, network):
        fully_shard(module, mesh=world.mesh, reshard_after_forward=True)
        # The mean over the processes that have clips of their own, of the sums over those that share one.
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(world.readers)


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Let every process have the mean of the gradients of what is not split among them."""
    if dist.is_initialized():
        for p in parameters:
            if p.grad is not None and not isinstance(p, DTensor):
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be split among the processes, gathered by all of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU; of a network that is split, whole and on the first process alone: others have nothing."""
    keep = not any(isinstance(tensor, DTensor) for tensor in tensors.values()) or dist.get_rank() == 0
    found = {}
    for name, tensor in tensors.items():
        each = whole(tensor.detach())  # one at a time, and by all processes
        if keep:
            found[name] = each.cpu()
    return found
