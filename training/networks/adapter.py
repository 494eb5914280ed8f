"""The trainable part of a detail expert: low-rank adapters by peft, and whole layers that are replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dcm_core.expert.layers import Layer, LowRank
from dcm_core.expert.merge import layers_of

from ..errors import ConfigError
from ..run.parallel import gathered


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


def adapter_layers(model: nn.Module, start: Mapping[str, Tensor]) -> dict[str, Layer]:
    """What ``add_adapter`` made trainable, by diffusers module name; replaced layers as difference to ``start``.

    ``start``: the values of all trainable parameters as ``add_adapter`` left them. Of a network that is split, the
    first process has them alone.
    """
    trained = gathered({name: p for name, p in model.named_parameters() if name in start})
    start = gathered(start)
    layers: dict[str, Layer] = {
        name: LowRank(trained[down], trained[f"{name}.lora_B.{_ADAPTER}.weight"], layer.lora_alpha[_ADAPTER])
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and (down := f"{name}.lora_A.{_ADAPTER}.weight") in trained
    }
    replaced = [name for name in trained if ".lora_" not in name]
    differences, _ = layers_of({name: trained[name] - start[name] for name in replaced})
    return layers | differences


_ADAPTER = "default"  # peft's name of the only adapter
