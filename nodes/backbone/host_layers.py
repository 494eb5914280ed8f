"""How ComfyUI runs a network's layers: a part of what ``host.py`` gathers, to be reread with it.

* A Linear of ``comfy.ops`` casts its weight and bias (with LoRA patches, from wherever they lie) by
  ``cast_bias_weight`` and multiplies; since async offload came, with ``offloadable`` and ``uncast_bias_weight``
  afterwards. Its subclasses for fp8, int8 and other packed weights multiply in ways of their own.
* From 0.33 on, some modules call the weights of a layer past its ``forward``, to fold an activation into an int8
  product: Wan's feed-forward layers.
* Newer versions record the blocks of some networks as CUDA graphs (``comfy.model_prefetch``) and replay them, where no
  ``forward`` of anybody's would run. None of those that experts exist for is among them.
* What a model that is not dynamic has no room for stays in memory, and with --novram all of it does. Newer versions pin
  there what layers of ``comfy.ops`` hold, and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import comfy.ldm.wan.model
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ...dcm_core.expert.sidecar import Changes, HostLayers, OpenForward
from .host import dtype_of_computation, network_of

_LINEAR = comfy.ops.disable_weight_init.Linear
_OFFLOADABLE = "offloadable" in inspect.signature(comfy.ops.cast_bias_weight).parameters
_FUSED = getattr(comfy.ldm.wan.model, "WanFeedForward", None)


def opened(module: Any) -> OpenForward | None:
    """The forward of a Linear that multiplies by its weight as it is once it was cast; None for any other layer."""
    made = type(module)
    if not isinstance(module, _LINEAR) or not _are_the_hosts(made.forward, made.forward_comfy_cast_weights):
        return None

    def forward(x: Tensor, product: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        _look_for_an_interrupt()
        if not (module.comfy_cast_weights or len(module.weight_function) or len(module.bias_function)):
            return product(module.weight, module.bias)
        if not _OFFLOADABLE:
            return product(*comfy.ops.cast_bias_weight(module, x))
        weight, bias, stream = comfy.ops.cast_bias_weight(module, x, offloadable=True)
        try:
            return product(weight, bias)
        finally:
            comfy.ops.uncast_bias_weight(module, weight, bias, stream)

    return forward


def unfused(holder: nn.Module) -> Callable[..., Tensor] | None:
    """The forward of a sequence of layers that calls each, where the host's own would use the weights of some."""
    return MethodType(nn.Sequential.forward, holder) if _FUSED and type(holder) is _FUSED else None


HOST_LAYERS = HostLayers(opened, unfused)


def beside_network(changes: Changes, load_device: torch.device, offload_device: torch.device) -> ModelPatcher:
    """What acts beside a network as a model of its own, so that the host counts, loads and offloads its tensors."""
    side = ModelPatcher(changes, load_device, offload_device)
    side.add_callback(CallbacksMP.ON_LOAD, _pin_what_stays)
    return side


def _pin_what_stays(side: ModelPatcher, device: torch.device, *_: Any) -> None:
    """Each use copies what stayed in memory, and from pinned memory no copy keeps those of the weights waiting."""
    if device.type == "cpu" or not hasattr(side, "pin_weight_to_device"):
        return
    for name, parameter in side.model.named_parameters():
        if parameter.device.type == "cpu":
            side.pin_weight_to_device(name)


def fails_compiled(model: ModelPatcher) -> torch.dtype | None:
    """What the weights are stored in, where torch.compile's stock node cannot run the MODEL; else None.

    With Dynamic VRAM weights in 16 bits keep the file's dtype. If nothing casts them, a compiled network multiplies
    them by activations in the other one.
    """
    dynamic = getattr(getattr(comfy, "memory_management", None), "aimdo_enabled", False)
    if not dynamic or "torch_compile_kwargs" not in model.model_options or model.get_model_object("manual_cast_dtype"):
        return None
    stored = {each.dtype for each in network_of(model).parameters()} & {torch.float16, torch.bfloat16}
    return next(iter(stored - {dtype_of_computation(model)}), None)


def _are_the_hosts(*functions: Callable) -> bool:
    """Are these the plain Linear's, and has no other extension put its own in their place?"""
    own = _LINEAR.forward, _LINEAR.forward_comfy_cast_weights
    return functions == own and all(function.__globals__ is vars(comfy.ops) for function in own)


# What newer versions do in each layer.
_look_for_an_interrupt = getattr(comfy.ops, "run_every_op", lambda: None)
