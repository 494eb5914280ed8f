"""The discriminator of the detail expert: one small head per layer of frozen teacher features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import gcd

from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Grid = tuple[int, int, int]


class FeatureHead(nn.Module):
    """Tokens of one layer to a map of logits, all convolutions 1x1 (DCM, arXiv 2506.03123).

    Nothing here knows a resolution: only the group normalisation mixes tokens, those of one frame.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        # Groups of 32 channels, as 32 groups are at the published width of 1024. Never groups of one channel:
        # each would be normalised over its own frame, and the head would be blind to a channel's mean.
        groups = gcd(width, max(1, width // 32))
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(groups, width), nn.LeakyReLU())
        self.residual = nn.Sequential(nn.Conv2d(width, width, 1), nn.GroupNorm(groups, width), nn.LeakyReLU())
        self.logits = nn.Conv2d(width, 1, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """``[B*T, C, h, w]`` to ``[B*T, 1, h, w]``."""
        hidden = self.stem(frames)
        return self.logits(hidden + self.residual(hidden))


class Discriminator(nn.Module):
    """Says for every token of every feature layer whether it is real (above 0) or the student's (below 0)."""

    def __init__(self, channels: int, layers: int, width: int = 1024, checkpointed: bool = False):
        """``channels``: width of the teacher's tokens; ``layers``: how many feature layers it gives.

        ``checkpointed``: the heads are computed again by the backward pass. They are as wide as a small network: else
        what waits for it are gigabytes for a clip of real size.
        """
        super().__init__()
        self.checkpointed = checkpointed
        if layers < 1:
            raise ValueError("the discriminator needs a feature layer; lower options.feature_stride")
        self.heads = nn.ModuleList(FeatureHead(channels, width) for _ in range(layers))

    def forward(self, features: Sequence[Tensor], grid: Grid, frozen: bool = False) -> list[Tensor]:
        """One ``[B, tokens, C]`` per layer, in any precision, to logits ``[B, T, h, w]``; the grid is (T, h, w).

        ``frozen``: gradient passes through to the features, none is collected in the weights. Raises ValueError when
        the layers or the tokens are not what the discriminator and the grid say.
        """
        if len(features) != len(self.heads):
            heads = len(self.heads)
            raise ValueError(f"{heads} discriminator heads, the teacher gave {len(features)} layers")
        return [self._judged(head, tokens, grid, frozen) for head, tokens in zip(self.heads, features, strict=True)]

    def _judged(self, head: nn.Module, tokens: Tensor, grid: Grid, frozen: bool) -> Tensor:
        def judged(tokens: Tensor) -> Tensor:
            with _frozen(head) if frozen else nullcontext():
                return _judge(head, tokens, grid)

        return checkpoint(judged, tokens, use_reentrant=False) if self.checkpointed else judged(tokens)


def _judge(head: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    frames, height, width = grid
    if tokens.shape[1] != frames * height * width:
        raise ValueError(f"{tokens.shape[1]} tokens do not make the grid {grid} (frames, height, width)")
    images = rearrange(tokens.float(), "b (t h w) c -> (b t) c h w", t=frames, h=height, w=width)
    return rearrange(head(images), "(b t) 1 h w -> b t h w", t=frames)


@contextmanager
def _frozen(head: nn.Module) -> Iterator[None]:
    head.requires_grad_(False)
    try:
        yield
    finally:
        head.requires_grad_(True)
