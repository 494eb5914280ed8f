"""A diffusers transformer as the methods call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ..data.batch import Conditions
from ..errors import ConfigError
from .attention import attention
from .context import Context
from .features import Features, recorded

# (x [B, C, T, H, W], timestep [B], conditions, stride) to (velocity like x, features): a network in one of its roles
Role = Callable[..., tuple[Tensor, Features | None]]
Patch = tuple[int, int, int]


class Network(nn.Module, ABC):
    """A transformer that gives its velocity and, if asked, features, in one call of one module.

    Whoever wraps modules, to shard or to checkpoint them, sees their calls alone: so nothing is asked of the
    transformer, its blocks or its output head but within ``forward``. A subclass says how one class of transformers is
    called, and what its last layers make of tokens.

    ``values``: how the numbers of a patch lie in a token of the output, for each frame, row, column and channel.

    ``acting``: the names of its adapters that act now, a list that all its adapted layers share. ``context``: how
    processes share the tokens of a clip, if they do. ``compute_dtype``: what it computes in, by autocast; the timestep
    is never cast.
    """

    values: ClassVar[str] = "c p q r"
    context: Context | None = None

    def __init__(self, transformer: Any):
        super().__init__()
        self.transformer = transformer
        self.acting: list[str] = []
        self.compute_dtype = torch.float32

    @contextmanager
    def having(self, adapters: Sequence[str]) -> Iterator[None]:
        """Inside this context these of its adapters act, the later ones over the earlier, and no others."""
        former = self.acting[:]
        self.acting[:] = adapters
        try:
            yield
        finally:
            self.acting[:] = former

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in the order of their calls."""

    @property
    def tapped(self) -> Sequence[nn.Module]:
        """Those whose tokens may be features."""
        return self.blocks

    @property
    @abstractmethod
    def embedder(self) -> nn.Module:
        """The module whose first output is the embedding of the timestep that the output head is given."""

    @property
    @abstractmethod
    def patch(self) -> Patch:
        """Frames, rows and columns of latents that one token stands for."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What the first layer computes in."""

    @property
    def text_width(self) -> int:
        """Of an embedded text's tokens."""
        config = self.transformer.config
        return config.get("text_dim") or config.get("text_embed_dim")

    @abstractmethod
    def velocity(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """The transformer's call at latents with the image's channels, all but timestep and guidance in ``dtype``."""

    @abstractmethod
    def head(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Tokens [B, N, C] of any layer through the output head to patches [B, N, values]."""

    def forward(
        self, x: Tensor, timestep: Tensor, conditions: Conditions, stride: int = 0
    ) -> tuple[Tensor, Features | None]:
        """Velocity [B, C, T, H, W] at x [B, C, T, H, W] and timestep [B] in 0..1000.

        With a stride also the tokens after the ``tapped`` blocks 0, stride, 2 stride, ..., with gradient into x.
        """
        grid, entering = self.grid(x), self._with_image(x, conditions).to(self.dtype)
        if self.context is not None:
            self.context.check(x, prod(grid))
        arguments = entering, timestep, conditions.cast(self.dtype)
        if not stride:
            with attention():
                return self.velocity(*arguments).to(x.dtype), None
        with attention(), recorded([self.embedder]) as embeddings, recorded(self.tapped[::stride]) as outputs:
            velocity = self.velocity(*arguments).to(x.dtype)
        tokens, embedding = [_first(output) for output in outputs], _first(embeddings[0])
        seen = [self._unpatched(self.head(each, embedding), grid).to(x.dtype) for each in tokens]
        if self.context is not None:
            tokens = [self.context.gathered(each) for each in tokens]
        return velocity, Features(tokens, seen, grid)

    def share_context(self, mesh: DeviceMesh) -> None:
        """Let the processes of ``mesh`` share the tokens of each clip. Raises ConfigError where they cannot."""
        raise ConfigError(
            f"parallel.context: the tokens of a clip cannot be shared with {type(self.transformer).__name__}, whose "
            "attention would see those of its own process alone. Leave it at 1."
        )

    def _with_image(self, x: Tensor, conditions: Conditions) -> Tensor:
        both = x if conditions.image is None else torch.cat([x, conditions.image.to(x)], dim=1)
        wanted = self.transformer.config.in_channels
        if both.shape[1] != wanted:
            raise ConfigError(
                f"This backbone takes {wanted} channels, and latents and image together have {both.shape[1]}: choose "
                "data that was prepared for it."
            )
        return both

    def grid(self, x: Tensor) -> tuple[int, int, int]:
        """How the tokens of latents lie: (T, h, w)."""
        frames, height, width = (size // part for size, part in zip(x.shape[2:], self.patch, strict=True))
        return frames, height, width

    def _unpatched(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        (t, h, w), (p, q, r) = grid, self.patch
        pattern = f"b (t h w) ({self.values}) -> b c (t p) (h q) (w r)"
        return rearrange(patches, pattern, t=t, h=h, w=w, p=p, q=q, r=r)


def _first(output: Any) -> Tensor:
    """Of what a module returns."""
    return output if isinstance(output, Tensor) else output[0]
