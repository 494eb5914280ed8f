"""Several processes with a part of each clip's tokens, by diffusers' context parallelism (Ulysses).

Between the first block and the output head a process has its tokens alone, and the attentions exchange them. So the
gradient that a process has of a weight is a part, whose sum over the processes is the whole.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks.context_parallel import EquipartitionSharder
from diffusers.utils import logging
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ..errors import ConfigError


class Context:
    """A transformer's tokens shared by the processes of ``mesh``, whose dimensions are ``ring`` and ``ulysses``."""

    def __init__(self, transformer: Any, mesh: DeviceMesh):
        """Raises ConfigError where so many processes cannot share its attention."""
        self.mesh, heads = mesh["ulysses"], transformer.config.num_attention_heads
        if heads % self.mesh.size():
            raise ConfigError(
                f"parallel.context={self.mesh.size()} does not divide the {heads} heads of this backbone's attention."
            )
        config = ContextParallelConfig(ulysses_degree=self.mesh.size(), mesh=mesh)
        plan = {name: part for name, part in transformer._cp_plan.items() if name}  # timesteps are one a clip
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # diffusers warns that its interface may change, PyTorch of what diffusers calls
        warnings.filterwarnings("ignore", ".*all_gather_tensor. is deprecated", FutureWarning)
        transformer.enable_parallelism(config=config, cp_plan=plan)
        logging.set_verbosity(verbosity)

    def entering(self, x: Tensor, tokens: int) -> Tensor:
        """Latents that all processes have, as they enter the network: their gradient is whole again on each.

        Raises ConfigError where their ``tokens`` cannot be shared equally.
        """
        if tokens % self.mesh.size():
            raise ConfigError(
                f"parallel.context={self.mesh.size()} does not divide the {tokens} tokens of a clip of latents "
                f"{tuple(x.shape[1:])}: use clips of another size, or another number."
            )
        return _WholeGradient.apply(x, self.mesh.get_group())  # pyright: ignore[reportReturnType]

    def gathered(self, tokens: Tensor) -> Tensor:
        """All tokens [B, N, C] of the clips, of which this process has a part."""
        return EquipartitionSharder.unshard(tokens, 1, self.mesh)


class _WholeGradient(torch.autograd.Function):
    """The identity, whose gradient is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole, group=ctx.group)
        return whole, None
