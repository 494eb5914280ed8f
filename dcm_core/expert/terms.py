"""What an expert does to a layer while the network runs: beside the layer's product, or within its weight.

Beside: ``forward`` adds the change to the layer's output, whatever the weight is packed in; the work grows with the
number of tokens. Within: ``product`` adds it to a copy of the weight first, in one pass that no token makes longer,
and one product follows. ``merging_is_cheaper`` counts both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ExpertFileError
from .layers import Difference, FusedLowRank, LowRank, Replacement
from .merge import with_difference
from .watch import Modules


class Work(NamedTuple):
    """What a term costs on top of the layer's own product: operations, and numbers read and written."""

    flops: int
    moved: int


class LayerTerm(nn.Module):
    """What the expert does to one layer, as a module with its tensors.

    ``forward``: input ``x`` [..., in] and output ``y`` [..., out] to the new output. The sum is written into ``y``: at
    full size a pass over it of its own costs a tenth of the expert's work.
    Hosts move and count leaf modules, so each layer is one.
    ``within_only``: the change depends on the weight, so it can only be made there.
    """

    within_only = False

    def __init__(self, name: str, shapes: dict[str, tuple[int, ...]], **tensors: Tensor | None):
        super().__init__()
        self.name, self.shapes = name, shapes
        for key, tensor in tensors.items():
            self.register_parameter(key, None if tensor is None else nn.Parameter(tensor, requires_grad=False))

    def target(self, model: Modules) -> nn.Module:
        """The Linear layer this term belongs to. Its weight may be packed or elsewhere: only sizes are
        read."""
        try:
            module = model.get_submodule(self.name)
            sizes = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
        except AttributeError:
            raise other_backbone(f"the model has no Linear layer {self.name}") from None
        for key, shape in self.shapes.items():
            check_shape(f"{self.name}.{key}", shape, sizes[key])
        return module

    def moved(self, key: str, x: Tensor) -> Tensor:
        """A tensor on the device of the activation ``x``. A copy made for that is not kept, for the host would not
        count its memory, nor waited for: a GPU works in the order it is told."""
        return getattr(self, key).to(x.device, non_blocking=x.is_cuda)

    def cast(self, key: str, x: Tensor) -> Tensor:
        """The same in the dtype of ``x``."""
        return self.moved(key, x).to(x.dtype)

    def merging_is_cheaper(self, rows: int) -> bool:
        """For an input of so many rows: is it to be neither more operations nor more numbers to move?

        Both are counted, for what a machine has more of differs; in the narrow range between the two answers the weight
        is left alone.
        """
        beside, within = self.beside(rows), self.within()
        return within.flops <= beside.flops and within.moved <= beside.moved

    def beside(self, rows: int) -> Work:
        """The work of ``forward``."""
        raise NotImplementedError

    def within(self) -> Work:
        """The work of ``merged``."""
        raise NotImplementedError

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        """Weight [out, in] and bias [out] with the change in them, as new tensors where there is one."""
        raise NotImplementedError


class _LowRankTerm(LayerTerm):
    down: Tensor
    up: Tensor

    def __init__(self, name: str, layer: LowRank):
        super().__init__(name, layer.shapes, down=layer.down, up=layer.up)
        self.scale = layer.scale

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        inner = F.linear(x, self.cast("down", x))
        return plus_product(y, inner, self.cast("up", x), strength * self.scale)

    def beside(self, rows: int) -> Work:
        (out, width), rank = self.shapes["weight"], len(self.down)
        return Work(2 * rows * rank * (width + out), rows * (width + 2 * rank + 2 * out))

    def within(self) -> Work:
        (out, width), rank = self.shapes["weight"], len(self.down)
        return Work(2 * out * rank * width, 2 * out * width)

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        down, up = self.cast("down", weight), self.cast("up", weight)
        return torch.addmm(weight, up, down, alpha=strength * self.scale), bias


class _FusedLowRankTerm(LayerTerm):
    """Several pairs that read the same input and change one range of rows each."""

    down: Tensor
    up: Tensor

    def __init__(self, name: str, layer: FusedLowRank):
        super().__init__(name, layer.shapes, down=layer.down, up=layer.up)
        self.scale, self.parts = layer.scale, layer.parts

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        rows = y.reshape(-1, y.shape[-1])
        inner = F.linear(x.reshape(-1, x.shape[-1]), self.cast("down", x))
        width = x.shape[-1]
        pairs = zip(inner.chunk(self.parts, dim=1), self.cast("up", x).chunk(self.parts), strict=True)
        for part, (part_inner, part_up) in enumerate(pairs):
            plus_product(rows.narrow(1, part * width, width), part_inner, part_up, strength * self.scale)
        return rows.view(y.shape)

    def beside(self, rows: int) -> Work:
        ranks, width = self.down.shape
        return Work(4 * rows * ranks * width, rows * (width + 2 * ranks + 2 * self.parts * width))

    def within(self) -> Work:
        (out, width), ranks = self.shapes["weight"], len(self.down)
        return Work(2 * width * ranks * width, 2 * out * width)

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        down, up = (self.cast(key, weight).unflatten(0, (self.parts, -1)) for key in ("down", "up"))
        changed, result = len(self.up), torch.empty_like(weight)
        own, new = (each[:changed].view(self.parts, -1, each.shape[1]) for each in (weight, result))
        torch.baddbmm(own, up, down, alpha=strength * self.scale, out=new)
        result[changed:] = weight[changed:]
        return result, bias


class _DifferenceTerm(LayerTerm):
    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, name: str, layer: Difference):
        super().__init__(name, layer.shapes, weight=layer.weight, bias=layer.bias)

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        if self.weight is not None:
            y = plus_product(y, x, self.cast("weight", x), strength)
        return y if self.bias is None else y.add_(self.cast("bias", x), alpha=strength)

    def beside(self, rows: int) -> Work:
        if self.weight is None:
            (out,) = self.shapes["bias"]
            return Work(rows * out, 2 * rows * out)
        out, width = self.shapes["weight"]
        return Work(2 * rows * out * width, rows * (width + 2 * out) + out * width)

    def within(self) -> Work:
        changed = math.prod(self.shapes["bias" if self.weight is None else "weight"])
        return Work(2 * changed, 3 * changed)

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        if self.weight is not None:
            weight = torch.add(weight, self.cast("weight", weight), alpha=strength)
        if self.bias is not None:
            difference = self.cast("bias", weight)
            bias = strength * difference if bias is None else torch.add(bias, difference, alpha=strength)
        return weight, bias


class ReplacementTerm(LayerTerm):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, name: str, layer: Replacement):
        super().__init__(name, layer.shapes, weight=layer.weight, bias=layer.bias)

    def target(self, model: Modules) -> nn.Module:
        module = super().target(model)
        if (self.bias is None) != (getattr(module, "bias", None) is None):
            raise other_backbone(f"{self.name} has a bias in only one of model and expert")
        return module

    def replaced(self, x: Tensor) -> Tensor:
        """The output at strength 1, for which the layer's own is not needed."""
        return F.linear(x, self.cast("weight", x), None if self.bias is None else self.cast("bias", x))

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        replaced = self.replaced(x).to(y.dtype)
        return replaced if strength == 1 else y.lerp_(replaced, strength)

    def beside(self, rows: int) -> Work:
        out, width = self.weight.shape
        return Work(2 * rows * out * width, rows * (width + 4 * out) + out * width)

    def within(self) -> Work:
        return Work(3 * self.weight.numel(), 3 * self.weight.numel())

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        new_bias = None if bias is None else torch.lerp(bias, self.cast("bias", bias), strength)
        return torch.lerp(weight, self.cast("weight", weight), strength), new_bias


class ParameterTerm(nn.Module):
    """The difference of a bare Parameter, which no layer's forward could add."""

    def __init__(self, name: str, difference: Tensor):
        super().__init__()
        self.name = name
        self.difference = nn.Parameter(difference, requires_grad=False)

    def target(self, model: Modules) -> tuple[nn.Module, str]:
        """The module that owns the Parameter, and its name there."""
        path, _, name = self.name.rpartition(".")
        try:
            owner = model.get_submodule(path)
            # A compiled module hands on attribute reads, but has Parameters of its own: none.
            owner = getattr(owner, "_orig_mod", owner)
            base = owner._parameters[name]
            if base is None:
                raise KeyError(name)
            shape = tuple(getattr(base, "tensor_shape", base.shape))
        except (AttributeError, KeyError):
            raise other_backbone(f"the model has no Parameter {self.name}") from None
        check_shape(self.name, tuple(self.difference.shape), shape)
        if not base.is_floating_point():
            raise ExpertFileError(f"{self.name} is stored as {base.dtype}: use a backbone whose {name} is not packed")
        return owner, name

    def added_to(self, base: Tensor, strength: float) -> nn.Parameter:
        """The Parameter that takes the place of ``base``."""
        return nn.Parameter(with_difference(base.detach(), self.difference, strength), requires_grad=False)


TERMS: dict[type, Callable[[str, Any], LayerTerm]] = {
    LowRank: _LowRankTerm,
    FusedLowRank: _FusedLowRankTerm,
    Difference: _DifferenceTerm,
    Replacement: ReplacementTerm,
}


def merging_is_cheaper(terms: Sequence[tuple[LayerTerm, float]], rows: int) -> bool:
    """Are these terms of one layer to act within its weight, for an input of so many rows?"""
    return any(term.within_only for term, _ in terms) or all(term.merging_is_cheaper(rows) for term, _ in terms)


def product(terms: Sequence[tuple[LayerTerm, float]], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's new output, of ``x``, of what it would multiply by, and of terms with their strengths.

    Weight and bias are left as they are, for they may be the layer's own or lie in a buffer that a host uses again.
    """
    if type(weight) not in (Tensor, nn.Parameter) or weight.dtype != x.dtype or weight.device != x.device:
        y = F.linear(x, weight, bias)
        for term, strength in terms:
            y = term(x, y, strength)
        return y
    for term, strength in terms:
        weight, bias = term.merged(weight, bias, strength)
    return F.linear(x, weight, bias)


def plus_product(y: Tensor, x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """``y`` [..., out] plus ``scale`` times ``linear(x, weight)``, in the memory of ``y``; x [..., in]."""
    if y.dtype != x.dtype:
        return y.add_(F.linear(x, weight), alpha=scale)
    rows = y.reshape(-1, y.shape[-1])
    return rows.addmm_(x.reshape(-1, x.shape[-1]), weight.t(), alpha=scale).view(y.shape)


def check_shape(name: str, expert: tuple[int, ...], model: tuple[int, ...]) -> None:
    if expert != model:
        raise other_backbone(f"{name} has shape {list(model)} in the model and {list(expert)} in the expert")


def other_backbone(what: str) -> ExpertFileError:
    return ExpertFileError(f"{what}: the expert was made for another backbone, choose one made for this")
