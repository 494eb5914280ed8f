"""An expert in memory: what it is, and how it changes each layer of a frozen backbone.

Layers carry ComfyUI's module names without the ``diffusion_model.`` prefix (``blocks.0.self_attn.q``). With
``strength`` s, the backbone's output y and input x of a layer:

* ``LowRank``: y + s * alpha / rank * up(down(x))
* ``FusedLowRank``: the same for each of q, k and v in one layer
* ``Difference``: y + s * linear(x, weight, bias)
* ``Replacement``: y + s * (linear(x, weight, bias) - y)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ExpertFileError
from .metadata import ExpertMetadata

__all__ = [
    "Difference",
    "Expert",
    "ExpertFileError",
    "ExpertMetadata",
    "FusedLowRank",
    "Layer",
    "LowRank",
    "Replacement",
]


@dataclass(eq=False)
class LowRank:
    """A low-rank pair: ``down`` [rank, in], ``up`` [out, rank]; their product is scaled by ``alpha / rank``."""

    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        if (
            self.down.ndim != 2
            or self.up.ndim != 2
            or self.down.shape[0] != self.up.shape[1]
            or not self.rank
        ):
            raise ExpertFileError(
                "a low-rank pair needs shapes [rank, in] and [out, rank], got "
                f"{list(self.down.shape)} and {list(self.up.shape)}"
            )
        if not math.isfinite(self.alpha):
            raise ExpertFileError(f"alpha must be finite, got {self.alpha}")

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Logical shapes of the backbone tensors this changes, by tensor name inside the layer."""
        return {"weight": (self.up.shape[0], self.down.shape[1])}


@dataclass(eq=False)
class FusedLowRank:
    """Low-rank pairs of the projections that one fused layer begins with, for example q, k and v of a qkv layer.

    ``down`` [parts * rank, in] and ``up`` [parts * in, rank] hold the pairs one below the other: part k changes
    the rows k * in to (k + 1) * in of the ``rows`` that the layer has; the rest of them stay. Each product is
    scaled by ``alpha / rank``.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rows: int

    def __post_init__(self) -> None:
        two = self.down.ndim == self.up.ndim == 2 and self.rank > 0 and self.down.numel() > 0
        fits = two and self.down.shape[0] == self.parts * self.rank
        if not fits or self.up.shape[0] != self.parts * self.down.shape[1] or self.rows < self.up.shape[0]:
            raise ExpertFileError(
                "fused low-rank pairs need shapes [parts * rank, in] and [parts * in, rank] for a layer of at "
                f"least parts * in rows, got {list(self.down.shape)} and {list(self.up.shape)} for {self.rows}"
            )
        if not math.isfinite(self.alpha):
            raise ExpertFileError(f"alpha must be finite, got {self.alpha}")

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def parts(self) -> int:
        return self.down.shape[0] // self.rank

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.rows, self.down.shape[1])}

    @property
    def block(self) -> LowRank:
        """The same change as one pair, whose ``up`` is block-diagonal: the form any LoRA loader reads."""
        up = self.up.new_zeros(self.rows, self.parts * self.rank)
        up[: self.up.shape[0]] = torch.block_diag(*self.up.chunk(self.parts))
        return LowRank(self.down, up, self.alpha * self.parts)

    @classmethod
    def from_block(cls, pair: LowRank, parts: int) -> FusedLowRank | None:
        """The inverse of ``block``; None for a pair that is not of this form."""
        width, rank = pair.down.shape[1], pair.rank // parts
        if rank * parts != pair.rank or pair.up.shape[0] < parts * width:
            return None
        ups = [pair.up[i * width : (i + 1) * width, i * rank : (i + 1) * rank] for i in range(parts)]
        fused = cls(pair.down, torch.cat(ups), pair.alpha / parts, pair.up.shape[0])
        return fused if torch.equal(fused.block.up, pair.up) else None


@dataclass(eq=False)
class Difference:
    """The difference of a layer: ``weight`` [out, in] and ``bias`` [out], at least one of them."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight is None and self.bias is None:
            raise ExpertFileError("a difference needs a weight, a bias, or both")
        if self.bias is not None and self.bias.ndim != 1:
            raise ExpertFileError(
                f"the difference of a bias must have one dimension, got {list(self.bias.shape)}"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return _shapes(weight=self.weight, bias=self.bias)


@dataclass(eq=False)
class Replacement:
    """The exact new ``weight`` [out, in] of a layer, and its ``bias`` [out] if it has one.

    Files by others hold these, and bundles that are to be kept bit for bit; else DCM writes differences, which leave
    room for other LoRAs on the layer.
    """

    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            raise ExpertFileError("a replacement needs a weight [out, in], and a bias [out] or none")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return _shapes(weight=self.weight, bias=self.bias)


Layer = LowRank | FusedLowRank | Difference | Replacement


@dataclass(eq=False)
class Expert:
    """Metadata, changed layers by ComfyUI module name, and differences of bare Parameters by full name."""

    metadata: ExpertMetadata
    layers: dict[str, Layer]
    parameters: dict[str, Tensor] = field(default_factory=dict)


def _shapes(**tensors: Tensor | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
