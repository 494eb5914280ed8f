"""Running a detail expert beside a frozen backbone: outputs get the expert's term, weights are never touched.

For the time of one model call each target layer gets a ``forward`` of its own on the instance, which calls
whatever forward was there before (the class's, or another extension's) and adds to its output, or multiplies by a
copy of the weight that has the change in it (``terms``). The base weights may hence be fp8, packed, patched, or on
another device. Forward hooks would not do: torch.compile does not see them change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from .layers import Expert
from .terms import TERMS, LayerTerm, ParameterTerm, ReplacementTerm, merging_is_cheaper, product
from .watch import Modules, Watch

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
class HostLayers:
    """How a host runs its layers, where an expert can make use of it: by default as PyTorch does.

    ``opened``: the forward of a layer's class, open where it multiplies; None where it does not multiply by a plain
    weight, or not in a known way. ``unfused``: a forward for a module that holds layers, which calls theirs where the
    class's own may use their weights in another way; None where there is none. ``own_forward``: the attribute of a
    layer that tells the host, while it is true, to call the layer's forward and never its weights alone.
    """

    opened: Callable[[nn.Module], OpenForward | None] = plain_linear
    unfused: Callable[[nn.Module], Forward | None] = field(default=lambda holder: None)
    own_forward: str | None = None


class Changes(nn.Module):
    """Changes of a network's layers and bare Parameters as a module, so that their tensors can be counted, moved and
    cast like any model's. Several may be of one layer."""

    def __init__(self, terms: Iterable[LayerTerm], parameters: Mapping[str, Tensor]):
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.parameter_terms = nn.ModuleList(ParameterTerm(name, value) for name, value in parameters.items())

    @property
    def parameter_differences(self) -> dict[str, Tensor]:
        """The differences of bare Parameters by name."""
        return {term.name: term.difference for term in cast("list[ParameterTerm]", self.parameter_terms)}


class Sidecar(Changes):
    """The changes of an expert.

    ``strength`` scales the whole expert and may be changed between calls; 0 leaves the model alone.
    """

    def __init__(self, expert: Expert, strength: float = 1.0, host: HostLayers | None = None):
        super().__init__((TERMS[type(layer)](name, layer) for name, layer in expert.layers.items()), expert.parameters)
        self.strength, self.host = strength, host or HostLayers()

    def active(self, diffusion_model: nn.Module) -> AbstractContextManager[Watch]:
        """Let the expert act inside the block, as ``acting`` says."""
        return acting(diffusion_model, [(self, self.strength)], self.host)


@contextmanager
def acting(diffusion_model: nn.Module, changes: Sequence[tuple[Changes, float]], host: HostLayers) -> Iterator[Watch]:
    """Let changes, each with its strength, act on ``diffusion_model`` (ComfyUI module names, compiled or not) inside
    the block; at strength 0 they leave it alone.

    Afterwards, and after any exception, each layer's ``forward`` and each Parameter object is what it
    was. Raises ExpertFileError, before anything is changed, if a layer is missing, is of another kind, or has
    another size. What it gives knows which layers acted.
    """
    modules = Modules(diffusion_model)
    layers: dict[str, nn.Module] = {}
    terms: dict[str, list[tuple[LayerTerm, float]]] = {}
    parameters = []
    for each, strength in changes:
        targets = {term: term.target(modules) for term in cast("list[LayerTerm]", each.terms)}
        bare = [(*term.target(modules), term) for term in cast("list[ParameterTerm]", each.parameter_terms)]
        if strength == 0:
            continue
        for term, module in targets.items():
            layers[term.name] = module
            terms.setdefault(term.name, []).append((term, strength))
        parameters += [(owner, name, term, strength) for owner, name, term in bare]
    watch = Watch(modules, layers)
    with ExitStack() as restore:

        def override(module: nn.Module, attribute: str, value: object) -> None:
            restore.callback(_restore, module, attribute, module.__dict__.get(attribute, _ABSENT))
            module.__dict__[attribute] = value

        for name, module in layers.items():
            override(module, "forward", watch.noting(module, _changed(terms[name], module, host)))
            if host.own_forward:
                override(module, host.own_forward, True)
        for holder in watch.holders:
            own = holder.__dict__.get("forward") or host.unfused(holder) or MethodType(type(holder).forward, holder)
            override(holder, "forward", watch.noting(holder, own))
        for owner, name, term, strength in parameters:
            base = owner._parameters[name]
            restore.callback(owner._parameters.__setitem__, name, base)
            owner._parameters[name] = term.added_to(base, strength)
        yield watch


def _changed(terms: list[tuple[LayerTerm, float]], module: nn.Module, host: HostLayers) -> Forward:
    """The layer's forward with these terms, each at its strength; what another extension has set there is always
    called."""

    def added(x: Tensor, y: Tensor) -> Tensor:
        for term, strength in terms:
            y = term(x, y, strength)
        return y

    theirs = module.__dict__.get("forward")
    if theirs is not None:
        # What it returns may be something that it keeps.
        return lambda x, *args, **kwargs: added(x, theirs(x, *args, **kwargs).clone())
    first, strength = terms[0]
    if isinstance(first, ReplacementTerm) and strength == 1 and len(terms) == 1:
        return lambda x, *args, **kwargs: first.replaced(x)
    own, opened = MethodType(type(module).forward, module), host.opened(module)

    def forward(x: Tensor, *args, **kwargs) -> Tensor:
        if opened is not None and merging_is_cheaper(terms, x.numel() // x.shape[-1]):
            return opened(x, lambda weight, bias: product(terms, x, weight, bias))
        return added(x, own(x, *args, **kwargs))

    return forward


def _restore(module: nn.Module, attribute: str, former: object) -> None:
    if former is _ABSENT:
        module.__dict__.pop(attribute, None)
    else:
        module.__dict__[attribute] = former
