"""Several processes with a part of each clip's tokens, by diffusers' context parallelism (Ulysses).

Between the first block and the output head a process has its tokens alone, and the attentions exchange them. So the
gradient that a process has of a weight is a part, whose sum over the processes is the whole. That of latents is right
where its own tokens lie, which is all that the network that made them takes of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ContextParallelConfig
from diffusers.hooks.context_parallel import EquipartitionSharder
from diffusers.utils import logging
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ..errors import ConfigError


class Context:
    """A transformer's tokens shared by the processes of ``mesh``, whose dimensions are ``ring`` and ``ulysses``.

    ``plan``: what of its modules' inputs and outputs is shared and gathered, as diffusers writes it.
    """

    def __init__(self, transformer: Any, mesh: DeviceMesh, plan: Mapping[str, Any]):
        """Raises ConfigError where so many processes cannot share its attention, or have no GPU."""
        self.mesh, heads = mesh["ulysses"], transformer.config.num_attention_heads
        if heads % self.size:
            raise ConfigError(
                f"parallel.context={self.size} does not divide the {heads} heads of this backbone's attention."
            )
        if not torch.accelerator.device_count():
            raise ConfigError("parallel.context: diffusers shares the tokens of a clip among GPUs alone. Leave it out.")
        config = ContextParallelConfig(ulysses_degree=self.size, mesh=mesh)
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # diffusers warns that its interface may change, PyTorch of what diffusers calls
        warnings.filterwarnings("ignore", ".*all_gather_tensor. is deprecated", FutureWarning)
        transformer.enable_parallelism(config=config, cp_plan=dict(plan))
        logging.set_verbosity(verbosity)

    @property
    def size(self) -> int:
        """How many processes share a clip."""
        return self.mesh.size()

    def check(self, x: Tensor, tokens: int) -> None:
        """Raises ConfigError where the ``tokens`` of latents ``x`` cannot be shared equally."""
        if tokens % self.size:
            raise ConfigError(
                f"parallel.context={self.size} does not divide the {tokens} tokens of a clip of latents "
                f"{tuple(x.shape[1:])}: use clips of another size, or another number."
            )

    def gathered(self, tokens: Tensor) -> Tensor:
        """All tokens [B, N, C] of the clips, of which this process has a part."""
        return EquipartitionSharder.unshard(tokens, 1, self.mesh)
