"""The trainable part of a detail expert: low-rank adapters by peft, and whole layers that are replaced."""

from collections.abc import Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from ..config import ConfigError


def add_adapter(
    model: nn.Module, targets: Sequence[str], replaced: Sequence[str], rank: int, alpha: float, seed: int
) -> None:
    """Freeze model, give the linears `targets` (name endings) a low-rank adapter, and set `replaced` trainable.

    The network's output stays what it was: the second factor starts at zero, the replaced layers at their own values.
    Raises ConfigError where a name matches nothing.
    """
    if rank < 1:
        raise ConfigError(f"rank={rank} must be at least 1.")
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)), model)
        except ValueError as error:
            raise ConfigError(f"The adapter's targets {', '.join(targets)} match no layer: {error}") from error
    for name in replaced:
        model.get_submodule(name).requires_grad_(True)


def low_rank_factors(model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(down [r, in], up [out, r]) of every adapted layer, by the layer's name in the network without adapters."""
    return {
        name: (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach())
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
