"""An expert in memory: what it is, and how it changes each layer of a frozen backbone.

Layers carry ComfyUI's module names without the ``diffusion_model.`` prefix (``blocks.0.self_attn.q``). With
``strength`` s, the backbone's output y and input x of a layer:

* ``LowRank``: y + s * alpha / rank * up(down(x))
* ``FusedLowRank``: the same for each of q, k and v in one layer
* ``Difference``: y + s * linear(x, weight, bias)
* ``Replacement``: y + s * (linear(x, weight, bias) - y)

What others ask of a layer is ``Layer``'s. A further kind is a class here, its term in ``sidecar`` (how it runs beside
a backbone) and its keys in ``tensor_names`` (how a file holds it), and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ExpertFileError
from .metadata import ExpertMetadata


@dataclass(eq=False, frozen=True)
class Layer:
    """What an expert does to one layer: low-rank ``pairs``, or whole ``tensors``, over some of its weights.

    ``title`` is the kind in words. ``replaces``: are ``tensors`` new values, and not differences?
    """

    title: ClassVar[str]
    replaces: ClassVar[bool] = False

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Logical shapes of the backbone tensors this changes, by tensor name inside the layer."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @cached_property
    def pairs(self) -> list[tuple[int, LowRank]]:
        """Low-rank pairs over the weight, each with the first of the rows that it changes; no two change one row."""
        return []

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is added to whole tensors of the layer (or takes their place), by tensor name inside the layer."""
        return {}

    @property
    def stock(self) -> Layer:
        """The same change in a form that any LoRA loader reads."""
        return self

    def split(self, parts: int) -> Layer:
        """The same change of a layer that begins with so many projections: for each of them, where it is made so."""
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> Layer:
        """The same kind of layer with the function applied to each of its tensors."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: function(v) for name, v in values.items() if isinstance(v, Tensor)})

    def delta(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is added to each tensor at strength 1: float32, pairs multiplied out, by tensor name in the layer.

        ``base`` gives the backbone's tensors by the same names; only a layer that ``replaces`` asks for them.
        """
        changes = {name: tensor.float() for name, tensor in self.tensors.items()}
        if self.replaces:
            changes = {name: tensor - base[name].to(tensor) for name, tensor in changes.items()}
        for first, pair in self.pairs:
            if "weight" not in changes:
                changes["weight"] = pair.down.new_zeros(self.shapes["weight"], dtype=torch.float32)
            product = pair.scale * (pair.up.float() @ pair.down.float())
            changes["weight"][first : first + len(product)] += product
        return changes

    def norm(self) -> float | None:
        """Frobenius norm of the change at strength 1; None where it depends on the backbone."""
        if self.replaces:
            return None
        return math.hypot(*[pair.norm() for _, pair in self.pairs], *map(frobenius, self.tensors.values()))


@dataclass(eq=False, frozen=True)
class LowRank(Layer):
    """A low-rank pair: ``down`` [rank, in], ``up`` [out, rank]; their product is scaled by ``alpha / rank``."""

    down: Tensor
    up: Tensor
    alpha: float

    title = "low-rank pair"

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or self.down.shape[0] != self.up.shape[1] or not self.down.shape[0]:
            raise ExpertFileError(
                "a low-rank pair needs shapes [rank, in] and [out, rank], got "
                f"{list(self.down.shape)} and {list(self.up.shape)}"
            )
        if not math.isfinite(self.alpha):
            raise ExpertFileError(f"alpha must be finite, got {self.alpha}")

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @cached_property
    def scale(self) -> float:
        return self.alpha / self.down.shape[0]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.up.shape[0], self.down.shape[1])}

    @cached_property
    def pairs(self) -> list[tuple[int, LowRank]]:
        return [(0, self)]

    def split(self, parts: int) -> Layer:
        return (FusedLowRank.from_block(self, parts) if parts > 1 else None) or self

    def norm(self) -> float:
        return _norm_of_product(self.down, self.up, self.scale)


@dataclass(eq=False, frozen=True)
class FusedLowRank(Layer):
    """Low-rank pairs of the projections that one fused layer begins with, for example q, k and v of a qkv layer.

    ``down`` [parts * rank, in] and ``up`` [parts * in, rank] hold the pairs one below the other: part k changes
    the rows k * in to (k + 1) * in of the ``rows`` that the layer has; the rest of them stay. Each product is
    scaled by ``alpha / rank``.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rows: int

    title = "fused low-rank pairs"

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
        return self.down.shape[0] // self.up.shape[1]

    @cached_property
    def scale(self) -> float:
        return self.alpha / self.up.shape[1]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.rows, self.down.shape[1])}

    @cached_property
    def pairs(self) -> list[tuple[int, LowRank]]:
        width, parts = self.down.shape[1], self.parts
        halves = zip(self.down.chunk(parts), self.up.chunk(parts), strict=True)
        return [(part * width, LowRank(down, up, self.alpha)) for part, (down, up) in enumerate(halves)]

    @property
    def stock(self) -> Layer:
        return self.block

    def norm(self) -> float:
        downs, ups = (tensor.unflatten(0, (self.parts, -1)) for tensor in (self.down, self.up))
        return _norm_of_product(downs, ups, self.scale)

    @property
    def block(self) -> LowRank:
        """The same change as one pair, whose ``up`` is block-diagonal."""
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


@dataclass(eq=False, frozen=True)
class Difference(Layer):
    """The difference of a layer: ``weight`` [out, in] and ``bias`` [out], at least one of them."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    title = "difference"

    def __post_init__(self) -> None:
        if self.weight is None and self.bias is None:
            raise ExpertFileError("a difference needs a weight, a bias, or both")
        if self.bias is not None and self.bias.ndim != 1:
            raise ExpertFileError(f"the difference of a bias must have one dimension, got {list(self.bias.shape)}")

    @property
    def tensors(self) -> dict[str, Tensor]:
        return _present(weight=self.weight, bias=self.bias)


@dataclass(eq=False, frozen=True)
class Replacement(Layer):
    """The exact new ``weight`` [out, in] of a layer, and its ``bias`` [out] if it has one.

    Files by others hold these, and bundles that are to be kept bit for bit; else DCM writes differences, which leave
    room for other LoRAs on the layer.
    """

    weight: Tensor
    bias: Tensor | None = None

    title = "new weight"
    replaces = True

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            raise ExpertFileError("a replacement needs a weight [out, in], and a bias [out] or none")

    @property
    def tensors(self) -> dict[str, Tensor]:
        return _present(weight=self.weight, bias=self.bias)


@dataclass(eq=False)
class Expert:
    """Metadata, changed layers by ComfyUI module name, and differences of bare Parameters by full name."""

    metadata: ExpertMetadata
    layers: dict[str, Layer]
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """The backbone's parameters that are changed, by full name, each with its logical shape."""
        changed = [
            (f"{name}.{key}", shape) for name, layer in self.layers.items() for key, shape in layer.shapes.items()
        ]
        return changed + [(name, tuple(difference.shape)) for name, difference in self.parameters.items()]

    def norms(self) -> dict[str, float | None]:
        """The ``norm`` of each layer's change, and of each bare Parameter's."""
        layers = {name: layer.norm() for name, layer in self.layers.items()}
        return layers | {name: frobenius(difference) for name, difference in self.parameters.items()}

    def map(self, function: Callable[[Tensor], Tensor]) -> Expert:
        """The same expert with the function applied to each of its tensors."""
        layers = {name: layer.map(function) for name, layer in self.layers.items()}
        return Expert(self.metadata, layers, {name: function(t) for name, t in self.parameters.items()})


def pairs_of(layers: Mapping[str, Layer]) -> dict[str, list[LowRank]]:
    """The low-rank pairs of each layer that has some."""
    return {name: [pair for _, pair in layer.pairs] for name, layer in layers.items() if layer.pairs}


def frobenius(tensor: Tensor) -> float:
    """The Frobenius norm, in float32 whatever the tensor is stored in."""
    plain = tensor.dtype.itemsize in (2, 4)  # PyTorch neither sums one-byte floats nor narrows on the way
    return float(torch.linalg.vector_norm(tensor if plain else tensor.float(), dtype=torch.float32))


def _norm_of_product(down: Tensor, up: Tensor, scale: float) -> float:
    """Of ``scale * up @ down``, or of several that lie below each other: down [..., rank, in], up [..., out, rank]."""
    # |up @ down|^2 = <up^T up, down down^T>: needs only [rank, rank] matrices.
    down, up = down.float(), up.float()
    square = ((up.mT @ up) * (down @ down.mT)).sum().clamp(min=0)
    return abs(scale) * float(square.sqrt())


def _present(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
