"""Running a detail expert beside a frozen backbone: outputs get the expert's term, weights are never touched.

For the time of one model call each target layer gets a ``forward`` of its own on the instance, which calls
whatever forward was there before (the class's, or another extension's) and adds to its output. The base
weights may hence be fp8, packed, patched, or on another device. Forward hooks would not do: torch.compile
does not see them change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ExpertFileError
from .layers import Difference, Expert, FusedLowRank, LowRank, Replacement
from .merge import with_difference

_ABSENT = object()


class Sidecar(nn.Module):
    """The tensors of an expert as a module, so that they can be counted, moved and cast like any model's.

    ``strength`` scales the whole expert and may be changed between calls; 0 leaves the model alone.
    """

    def __init__(self, expert: Expert, strength: float = 1.0):
        super().__init__()
        self.strength = strength
        terms = [_TERMS[type(layer)](name, layer) for name, layer in expert.layers.items()]
        self.terms = nn.ModuleList(terms)
        bare = [_ParameterTerm(name, difference) for name, difference in expert.parameters.items()]
        self.parameter_terms = nn.ModuleList(bare)

    @contextmanager
    def active(self, diffusion_model: nn.Module) -> Iterator[None]:
        """Let the expert act on ``diffusion_model`` (ComfyUI module names, compiled or not) inside the block.

        Afterwards, and after any exception, each layer's ``forward`` and each Parameter object is what it
        was. Raises ExpertFileError, before anything is changed, if a layer is missing, is no Linear, or has
        another size.
        """
        terms = cast("list[_LayerTerm]", self.terms)
        bare = cast("list[_ParameterTerm]", self.parameter_terms)
        layers = [(term.target(diffusion_model), term) for term in terms]
        parameters = [(*term.target(diffusion_model), term) for term in bare]
        if self.strength == 0:
            yield
            return
        with ExitStack() as restore:
            for module, term in layers:
                former = module.__dict__.get("forward", _ABSENT)
                restore.callback(_restore_forward, module, former)
                module.__dict__["forward"] = _forward_with(term, module, former, self.strength)
            for owner, name, base, term in parameters:
                restore.callback(owner._parameters.__setitem__, name, base)
                owner._parameters[name] = term.added_to(base, self.strength)
            yield


class _LayerTerm(nn.Module):
    """What the expert does to one layer: input ``x`` [..., in] and output ``y`` [..., out] to the new output.

    The sum is written into ``y``: at full size a pass over it of its own costs a tenth of the expert's work.
    Hosts move and count leaf modules, so each layer is one.
    """

    def __init__(self, name: str, shapes: dict[str, tuple[int, ...]], **tensors: Tensor | None):
        super().__init__()
        self.name, self.shapes = name, shapes
        for key, tensor in tensors.items():
            self.register_parameter(key, None if tensor is None else nn.Parameter(tensor, requires_grad=False))

    def target(self, model: nn.Module) -> nn.Module:
        """The Linear layer this term belongs to. Its weight may be packed or elsewhere: only sizes are
        read."""
        try:
            module = model.get_submodule(self.name)
            sizes = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
        except AttributeError:
            raise _other_backbone(f"the model has no Linear layer {self.name}") from None
        for key, shape in self.shapes.items():
            _check_shape(f"{self.name}.{key}", shape, sizes[key])
        return module

    def cast(self, key: str, x: Tensor) -> Tensor:
        """A tensor in the device and dtype of the activation ``x``. A copy made for that is not kept: the host would
        not count its memory."""
        return getattr(self, key).to(x.device, x.dtype)


class _LowRankTerm(_LayerTerm):
    def __init__(self, name: str, layer: LowRank):
        super().__init__(name, layer.shapes, down=layer.down, up=layer.up)
        self.scale = layer.scale

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        inner = F.linear(x, self.cast("down", x))
        return _plus_product(y, inner, self.cast("up", x), strength * self.scale)


class _FusedLowRankTerm(_LayerTerm):
    """Several pairs that read the same input and change one range of rows each."""

    def __init__(self, name: str, layer: FusedLowRank):
        super().__init__(name, layer.shapes, down=layer.down, up=layer.up)
        self.scale, self.parts = layer.scale, layer.parts

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        rows = y.reshape(-1, y.shape[-1])
        inner = F.linear(x.reshape(-1, x.shape[-1]), self.cast("down", x))
        width = x.shape[-1]
        pairs = zip(inner.chunk(self.parts, dim=1), self.cast("up", x).chunk(self.parts), strict=True)
        for part, (part_inner, part_up) in enumerate(pairs):
            _plus_product(rows.narrow(1, part * width, width), part_inner, part_up, strength * self.scale)
        return rows.view(y.shape)


class _DifferenceTerm(_LayerTerm):
    def __init__(self, name: str, layer: Difference):
        super().__init__(name, layer.shapes, weight=layer.weight, bias=layer.bias)

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        if self.weight is not None:
            y = _plus_product(y, x, self.cast("weight", x), strength)
        return y if self.bias is None else y.add_(self.cast("bias", x), alpha=strength)


class _ReplacementTerm(_LayerTerm):
    def __init__(self, name: str, layer: Replacement):
        super().__init__(name, layer.shapes, weight=layer.weight, bias=layer.bias)

    def target(self, model: nn.Module) -> nn.Module:
        module = super().target(model)
        if (self.bias is None) != (getattr(module, "bias", None) is None):
            raise _other_backbone(f"{self.name} has a bias in only one of model and expert")
        return module

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        bias = None if self.bias is None else self.cast("bias", x)
        replaced = F.linear(x, self.cast("weight", x), bias).to(y.dtype)
        return replaced if strength == 1 else y.lerp_(replaced, strength)


_TERMS = {
    LowRank: _LowRankTerm,
    FusedLowRank: _FusedLowRankTerm,
    Difference: _DifferenceTerm,
    Replacement: _ReplacementTerm,
}


class _ParameterTerm(nn.Module):
    """The difference of a bare Parameter, which no layer's forward could add."""

    def __init__(self, name: str, difference: Tensor):
        super().__init__()
        self.name = name
        self.difference = nn.Parameter(difference, requires_grad=False)

    def target(self, model: nn.Module) -> tuple[nn.Module, str, nn.Parameter]:
        """The module that owns the Parameter, its name there, and the Parameter."""
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
            raise _other_backbone(f"the model has no Parameter {self.name}") from None
        _check_shape(self.name, tuple(self.difference.shape), shape)
        if not base.is_floating_point():
            raise ExpertFileError(f"{self.name} is stored as {base.dtype}: use a backbone whose {name} is not packed")
        return owner, name, base

    def added_to(self, base: Tensor, strength: float) -> nn.Parameter:
        """The Parameter that takes the place of ``base``."""
        return nn.Parameter(with_difference(base.detach(), self.difference, strength), requires_grad=False)


def _plus_product(y: Tensor, x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """``y`` [..., out] plus ``scale`` times ``linear(x, weight)``, in the memory of ``y``; x [..., in]."""
    if y.dtype != x.dtype:
        return y.add_(F.linear(x, weight), alpha=scale)
    rows = y.reshape(-1, y.shape[-1])
    return rows.addmm_(x.reshape(-1, x.shape[-1]), weight.t(), alpha=scale).view(y.shape)


def _forward_with(term: _LayerTerm, module: nn.Module, former: Any, strength: float) -> Callable[..., Tensor]:
    base = MethodType(type(module).forward, module) if former is _ABSENT else former
    # The output of a Linear is nobody else's. What another extension returns may be something it keeps.
    own = former is _ABSENT and isinstance(module, nn.Linear)

    def forward(x: Tensor, *args, **kwargs) -> Tensor:
        y = base(x, *args, **kwargs)
        return term(x, y if own else y.clone(), strength)

    return forward


def _restore_forward(module: nn.Module, former: object) -> None:
    if former is _ABSENT:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = former


def _check_shape(name: str, expert: tuple[int, ...], model: tuple[int, ...]) -> None:
    if expert != model:
        raise _other_backbone(f"{name} has shape {list(model)} in the model and {list(expert)} in the expert")


def _other_backbone(what: str) -> ExpertFileError:
    return ExpertFileError(f"{what}: the expert was made for another backbone, choose one made for this")
