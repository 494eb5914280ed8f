"""The trainable part of a detail expert: low-rank adapters by peft, and whole layers that are replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dcm_core.expert.layers import Layer, LowRank
from dcm_core.expert.merge import in_one_layer, layers_of
from dcm_core.families.keymap import KeyMap

from ..errors import ConfigError


def add_adapter(
    model: nn.Module, low_rank: Sequence[str], replaced: Sequence[str], rank: int, alpha: float, seed: int
) -> None:
    """Freeze ``model``, give the linears named in ``low_rank`` an adapter, and set those in ``replaced`` trainable.

    The output stays what it was: an adapter's second factor starts at zero, a replaced layer at its own values.
    Raises ConfigError for a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"options.rank={rank} must be at least 1.")
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": list(low_rank)}
        inject_adapter_in_model(LoraConfig(**config), model)
    for name in replaced:
        model.get_submodule(name).requires_grad_(True)


def adapter_layers(model: nn.Module, start: Mapping[str, Tensor], keymap: KeyMap) -> dict[str, Layer]:
    """What ``add_adapter`` made trainable, by ComfyUI module name; replaced layers as difference to ``start``.

    ``start``: the values of all trainable parameters as ``add_adapter`` left them.
    """
    pairs = {
        name: LowRank(_weight(layer.lora_A), _weight(layer.lora_B), layer.lora_alpha[_ADAPTER])
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    layers: dict[str, Layer] = {}
    for name in dict.fromkeys(map(keymap.module_to_comfy, pairs)):
        rows = sum(_rows(model, weight.removesuffix(".weight")) for weight in keymap.sources(f"{name}.weight"))
        layers[name] = in_one_layer([pairs[each] for each in keymap.adapted(name)], rows)
    parameters = dict(model.named_parameters())
    replaced = {name: value for name, value in start.items() if ".lora_" not in name}
    changes = {name: (parameters[name] - value).detach() for name, value in replaced.items()}
    return layers | layers_of(keymap.state_to_comfy(changes))[0]


_ADAPTER = "default"  # peft's name of the only adapter


def _rows(model: nn.Module, name: str) -> int:
    linear: Any = model.get_submodule(name)
    return linear.out_features


def _weight(factors: Any) -> Tensor:
    return factors[_ADAPTER].weight.detach()
