"""Running a detail expert beside a frozen backbone: outputs get the expert's term, weights are never touched.

For the time of one model call each target layer gets a ``forward`` of its own on the instance, which calls
whatever forward was there before (the class's, or another extension's) and adds to its output, or multiplies by a
copy of the weight that has the change in it (``terms``). The base weights may hence be fp8, packed, patched, or on
another device. Forward hooks would not do: torch.compile does not see them change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from ..errors import ExpertFileError
from .layers import Expert
from .merge import with_difference
from .terms import TERMS, LayerTerm, ReplacementTerm, check_shape, other_backbone
from .watch import Watch

_ABSENT = object()
Forward = Callable[..., Tensor]
# A layer's forward with something else in place of its product: (x, product(weight, bias) -> y) -> y.
OpenForward = Callable[[Tensor, Callable[[Tensor, Tensor | None], Tensor]], Tensor]


def plain_linear(module: Any) -> OpenForward | None:
    """Of PyTorch's own Linear."""
    if type(module).forward is not nn.Linear.forward:
        return None
    return lambda x, product: product(module.weight, module.bias)


@dataclass(frozen=True)
class Ways:
    """How a host runs its layers, where an expert can make use of it.

    ``opened``: the forward of a layer's class, open where it multiplies; None where it does not multiply by a plain
    weight, or not in a known way. ``unfused``: a forward for a module that holds layers, which calls theirs where the
    class's own may use their weights in another way; None where there is none.
    """

    opened: Callable[[nn.Module], OpenForward | None] = plain_linear
    unfused: Callable[[nn.Module], Forward | None] = field(default=lambda holder: None)


class Sidecar(nn.Module):
    """The tensors of an expert as a module, so that they can be counted, moved and cast like any model's.

    ``strength`` scales the whole expert and may be changed between calls; 0 leaves the model alone.
    """

    def __init__(self, expert: Expert, strength: float = 1.0, ways: Ways | None = None):
        super().__init__()
        self.strength, self.ways = strength, ways or Ways()
        terms = [TERMS[type(layer)](name, layer) for name, layer in expert.layers.items()]
        self.terms = nn.ModuleList(terms)
        bare = [_ParameterTerm(name, difference) for name, difference in expert.parameters.items()]
        self.parameter_terms = nn.ModuleList(bare)

    @contextmanager
    def active(self, diffusion_model: nn.Module) -> Iterator[Watch]:
        """Let the expert act on ``diffusion_model`` (ComfyUI module names, compiled or not) inside the block.

        Afterwards, and after any exception, each layer's ``forward`` and each Parameter object is what it
        was. Raises ExpertFileError, before anything is changed, if a layer is missing, is no Linear, or has
        another size. What it gives knows which layers acted.
        """
        terms = cast("list[LayerTerm]", self.terms)
        bare = cast("list[_ParameterTerm]", self.parameter_terms)
        layers = {term.name: term.target(diffusion_model) for term in terms}
        parameters = [(*term.target(diffusion_model), term) for term in bare]
        if self.strength == 0:
            yield Watch(diffusion_model, {})
            return
        watch = Watch(diffusion_model, layers)
        with ExitStack() as restore:

            def override(module: nn.Module, forward: Forward) -> None:
                restore.callback(_restore_forward, module, module.__dict__.get("forward", _ABSENT))
                module.__dict__["forward"] = forward

            for term in terms:
                module = layers[term.name]
                override(module, watch.noting(module, _changed(term, module, self.ways, self.strength)))
            for holder in watch.holders:
                own = self.ways.unfused(holder) or MethodType(type(holder).forward, holder)
                override(holder, watch.noting(holder, own))
            for owner, name, base, term in parameters:
                restore.callback(owner._parameters.__setitem__, name, base)
                owner._parameters[name] = term.added_to(base, self.strength)
            yield watch


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
            raise other_backbone(f"the model has no Parameter {self.name}") from None
        check_shape(self.name, tuple(self.difference.shape), shape)
        if not base.is_floating_point():
            raise ExpertFileError(f"{self.name} is stored as {base.dtype}: use a backbone whose {name} is not packed")
        return owner, name, base

    def added_to(self, base: Tensor, strength: float) -> nn.Parameter:
        """The Parameter that takes the place of ``base``."""
        return nn.Parameter(with_difference(base.detach(), self.difference, strength), requires_grad=False)


def _changed(term: LayerTerm, module: nn.Module, ways: Ways, strength: float) -> Forward:
    """The layer's forward with the term; what another extension has set there is always called."""
    theirs = module.__dict__.get("forward")
    if theirs is not None:
        # What it returns may be something that it keeps.
        return lambda x, *args, **kwargs: term(x, theirs(x, *args, **kwargs).clone(), strength)
    if isinstance(term, ReplacementTerm) and strength == 1:
        return lambda x, *args, **kwargs: term.replaced(x)
    own, opened = MethodType(type(module).forward, module), ways.opened(module)

    def forward(x: Tensor, *args, **kwargs) -> Tensor:
        if opened is not None and term.merging_is_cheaper(x.numel() // x.shape[-1]):
            return opened(x, lambda weight, bias: term.product(x, weight, bias, strength))
        return term(x, own(x, *args, **kwargs), strength)

    return forward


def _restore_forward(module: nn.Module, former: object) -> None:
    if former is _ABSENT:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = former
