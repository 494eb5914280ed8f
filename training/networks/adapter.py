"""Adapters of a frozen network: low-rank pairs by peft, and whole layers that are replaced.

A network may hold several, by name. All its adapted layers share one list of those that act (``Network.acting``), so
that which act is said once for a call, without a layer or its ``requires_grad`` being touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dcm_core.expert.layers import Difference, Layer, LowRank

from ..errors import ConfigError
from ..run.parallel import gathered

_PARTS = (".lora_A.", ".lora_B.", ".twins.")  # what the parameters of an adapter have in their names
_BASE = ".base_layer."

Rank = int | Literal["whole"]  # of pairs; or every linear layer gets a twin, and there are none


class Twins(nn.Module):
    """A frozen layer and what takes its place: the twin of the last acting adapter that has one."""

    def __init__(self, base_layer: nn.Module, acting: Sequence[str]):
        super().__init__()
        self.base_layer, self.acting, self.twins = base_layer, acting, nn.ModuleDict()

    def add(self, name: str) -> None:
        """A twin for that adapter, which begins as what acts now."""
        self.twins[name] = copy.deepcopy(self.below(self.acting)).float()

    def below(self, adapters: Sequence[str]) -> nn.Module:
        """What acts where these adapters do."""
        own = [name for name in adapters if name in self.twins]
        return self.twins[own[-1]] if own else self.base_layer

    def forward(self, x: Tensor) -> Tensor:
        return self.below(self.acting)(x)

    def __getattr__(self, name: str) -> Any:
        """What a transformer asks of the layer itself, such as its ``in_features``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


def add_adapter(
    model: nn.Module,
    acting: list[str],
    name: str,
    low_rank: Sequence[str],
    replaced: Sequence[str],
    rank: Rank,
    alpha: float,
    seed: int,
) -> None:
    """Give the linears named in ``low_rank`` a pair and those in ``replaced`` a twin, and freeze everything else.

    With the rank ``whole`` every linear of the network gets a twin, and none a pair.

    ``acting``: the list of the adapters that act; those in it now are what the new one lies over. The output stays what
    it is with them: a pair's second factor starts at zero, a twin at their values. Trained is always in float32.
    Raises ConfigError for a rank below 1.
    """
    if rank == "whole":
        replaced = list(dict.fromkeys([*_linears(model), *replaced]))
    else:
        _add_pairs(model, acting, name, low_rank, rank, alpha, seed)
    for each in replaced:
        layer = model.get_submodule(each)
        if not isinstance(layer, Twins):
            layer = Twins(layer, acting)
            model.set_submodule(each, layer)
        layer.add(name)
    for full_name, parameter in model.named_parameters():
        parameter.requires_grad_(_belongs(full_name, name))


def _add_pairs(
    model: nn.Module, acting: list[str], name: str, modules: Sequence[str], rank: int, alpha: float, seed: int
) -> None:
    if rank < 1:
        raise ConfigError(f"options.rank={rank} must be at least 1.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vars(model).pop("peft_config", None)  # of an adapter before this one: peft only warns of it
        config: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": list(modules)}
        inject_adapter_in_model(LoraConfig(**config), model, adapter_name=name)
    for layer in _adapted(model).values():
        layer._active_adapter = acting
        layer.lora_A[name].float()
        layer.lora_B[name].float()


def adapter_layers(model: nn.Module, adapters: Sequence[str]) -> dict[str, Layer]:
    """What the last of these adapters changes over the others, by diffusers module name; nothing for no adapter.

    Of a network that is split among processes, the first one has them alone.
    """
    if not adapters:
        return {}
    *below, name = adapters
    own = gathered({full_name: p for full_name, p in model.named_parameters() if _belongs(full_name, name)})
    layers: dict[str, Layer] = {}
    for module, pair in _adapted(model).items():
        down, up = (own.get(f"{module}.{factor}.{name}.weight") for factor in ("lora_A", "lora_B"))
        if down is not None and up is not None:
            layers[module] = LowRank(down, up, pair.lora_alpha[name])
    for module, twins in _twins(model).items():
        old = gathered(dict(twins.below(below).named_parameters()))
        changed = {key: own[f"{module}.twins.{name}.{key}"] - value.float() for key, value in old.items()}
        if changed:
            layers[module] = Difference(**changed)
    return layers


def fill_adapter(model: nn.Module, name: str, layers: Mapping[str, Layer]) -> None:
    """Give an adapter that has just been added over the bare network the values of such layers, and freeze it.

    Raises ValueError naming a layer that the adapter has not, or of which it has another kind or shape.
    """
    pairs, twins = _adapted(model), _twins(model)
    for module in {**layers, **pairs, **twins}:
        layer = layers.get(module)
        if isinstance(layer, LowRank) and module in pairs:
            pair = pairs[module]
            for factors, value in ((pair.lora_A, layer.down), (pair.lora_B, layer.up)):
                _copy(module, factors[name].weight, value)
            pair.lora_alpha[name], pair.scaling[name] = layer.alpha, layer.alpha / layer.rank  # a file may have several
        elif isinstance(layer, Difference) and module in twins:
            own = dict(twins[module].twins[name].named_parameters())
            for key, value in layer.tensors.items():
                _copy(module, own[key], own[key].detach() + value.to(own[key]))
        else:
            raise ValueError(f"{module}: a {layer.title if layer else 'layer without a change'}")
    model.requires_grad_(False)


def frozen_state(model: nn.Module, adapters: Sequence[str] = ()) -> dict[str, Tensor]:
    """What lies below all adapters but these, under the names that it had before there were any."""
    return {
        name.replace(_BASE, "."): tensor
        for name, tensor in model.state_dict().items()
        if not any(part in name for part in _PARTS) or any(_belongs(name, adapter) for adapter in adapters)
    }


def _linears(model: nn.Module) -> list[str]:
    """The network's own, those that have a twin already among them."""
    weights = (name.rpartition(".") for name, tensor in frozen_state(model).items() if tensor.ndim == 2)
    return [module for module, _, kind in weights if kind == "weight"]


def _belongs(parameter: str, adapter: str) -> bool:
    return any(f"{part}{adapter}." in parameter for part in _PARTS)


def _adapted(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _twins(model: nn.Module) -> dict[str, Twins]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Twins)}


def _copy(module: str, parameter: nn.Parameter, value: Tensor) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"{module}: {list(value.shape)} for {list(parameter.shape)}")
    parameter.data.copy_(value)
