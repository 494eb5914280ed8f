"""Which layers of an expert acted in a call: a host may use the weights of a layer without calling its ``forward``.

A layer has to act where the module that holds it ran. Whole calls, blocks and inputs that a host leaves out are no
fault: there the holder does not run either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

# On a forward that one of these set.
_NOTED = "_dcm_noted"
# Of modules that only hold others: who runs their parts is found further up.
_CONTAINERS = (nn.Module.forward, nn.Sequential.forward)


class Modules:
    """The modules of a network by name, each looked up once: an expert asks for hundreds at each of its calls."""

    def __init__(self, network: nn.Module):
        self.network = network
        self._found = {"": network}

    def get_submodule(self, name: str) -> nn.Module:
        """As the network's own, of modules with and without torch.compile around them."""
        if name not in self._found:
            parent, _, own = name.rpartition(".")
            module = getattr(self.get_submodule(parent), own)
            if not isinstance(module, nn.Module):
                raise AttributeError(f"{name} is no module")
            self._found[name] = module
        return self._found[name]


class _Seen:
    """Set inside of compiled graphs, and neither read nor cleared there: they would be compiled anew at each call."""

    ran = False


class Watch:
    """The forwards that ran in one call of a network, whose target ``layers`` are given by name."""

    def __init__(self, modules: Modules, layers: Iterable[str]):
        self._modules = modules
        around = {name: name.rpartition(".")[0] for name in layers}
        holders = {path: _holders(modules, path) for path in dict.fromkeys(around.values())}
        self._holders = {name: holders[path] for name, path in around.items()}
        self._seen: dict[nn.Module, _Seen] = {}

    @property
    def holders(self) -> set[nn.Module]:
        """The modules to watch beside the layers. A forward that another extension set on one may leave out parts."""
        holders = {holder for holders in self._holders.values() for holder in holders}
        return {holder for holder in holders if "forward" not in vars(holder) or _is_noted(vars(holder)["forward"])}

    def noting(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward for ``module`` that notes that it ran."""
        seen = self._seen[module] = _Seen()

        def noted(*args, **kwargs):
            seen.ran = True
            return forward(*args, **kwargs)

        setattr(noted, _NOTED, True)
        return noted

    def bypassed(self) -> list[str]:
        """The layers that did not act, though what holds them ran."""
        ran = {module for module, seen in self._seen.items() if seen.ran}
        silent = [name for name in self._holders if self._modules.get_submodule(name) not in ran]
        return [name for name in silent if ran.intersection(self._holders[name])]


def _holders(modules: Modules, path: str) -> list[nn.Module]:
    """The nearest module from ``path`` outwards that has a forward of its own; right in the network, its blocks.

    The network itself would not do: step caches answer inside of it, for all that follows.
    """
    while path:
        module = _uncompiled(modules.get_submodule(path))
        if type(module).forward not in _CONTAINERS:
            return [module]
        path = path.rpartition(".")[0]
    lists = [each for each in _uncompiled(modules.network).children() if isinstance(each, nn.ModuleList)]
    return [_uncompiled(block) for blocks in lists for block in blocks]


def _is_noted(forward: Callable[..., Any]) -> bool:
    return getattr(forward, _NOTED, False)


def _uncompiled(module: nn.Module) -> nn.Module:
    return getattr(module, "_orig_mod", module)
