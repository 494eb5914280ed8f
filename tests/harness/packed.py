"""A stand-in for ComfyUI-GGUF: weights packed in blocks, unpacked at every use by the custom operations of the host.

It has what that pack has and others might trip over: a tensor class that tells the shape its bytes stand for and is
its own copy, Linear layers without a weight until one is loaded, state dicts of sizes only, and a patcher that leaves
patches with the packed tensor, to be computed at every use.
"""

from __future__ import annotations

import comfy.lora
import comfy.ops
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

BLOCK = 32  # numbers that share a scale: two bytes of float16, then a signed byte for each


class PackedTensor(torch.Tensor):
    tensor_shape: tuple[int, ...]
    patches: list

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor_shape

    def to(self, *args, **kwargs) -> PackedTensor:
        return labelled(super().to(*args, **kwargs), self.tensor_shape, list(self.patches))

    def detach(self) -> PackedTensor:
        return self

    def clone(self, *args, **kwargs) -> PackedTensor:
        return self


def labelled(data: Tensor, shape: tuple[int, ...], patches: list) -> PackedTensor:
    packed = data.as_subclass(PackedTensor)
    packed.tensor_shape, packed.patches = torch.Size(shape), patches
    return packed


def pack(weight: Tensor) -> PackedTensor:
    """A weight [out, in] in bytes; `in` is a multiple of BLOCK."""
    blocks = weight.detach().float().reshape(-1, BLOCK)
    scales = (blocks.abs().amax(dim=1, keepdim=True) / 127).half()
    numbers = (blocks / scales.float()).round().clamp(-127, 127).to(torch.int8)
    data = torch.cat([scales.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return labelled(data, weight.shape, [])


def unpack(packed: PackedTensor, dtype: torch.dtype) -> Tensor:
    data = packed.as_subclass(torch.Tensor)
    scales, numbers = data[:, :2].contiguous().view(torch.float16), data[:, 2:].contiguous().view(torch.int8)
    return (scales.float() * numbers.float()).reshape(packed.tensor_shape).to(dtype)


class Operations(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state_dict, prefix, *_):
            for key in ("weight", "bias"):
                if f"{prefix}{key}" in state_dict:
                    setattr(self, key, nn.Parameter(state_dict[f"{prefix}{key}"], requires_grad=False))

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            data = self.weight.as_subclass(torch.Tensor)
            destination[f"{prefix}weight"] = torch.empty_like(data, device="meta")
            if self.bias is not None:
                destination[f"{prefix}bias"] = self.bias

        def forward(self, x: Tensor) -> Tensor:
            weight = unpack(self.weight, x.dtype)
            for patches, key in self.weight.patches:
                weight = comfy.lora.calculate_weight(patches, weight, key)
            bias = None if self.bias is None else self.bias.to(x.device, x.dtype)
            return F.linear(x, weight, bias)


class Patcher(ModelPatcher):
    def patch_weight_to_device(self, key, *args, **kwargs):
        weight = comfy.utils.get_attr(self.model, key)
        if not isinstance(weight, PackedTensor):
            return super().patch_weight_to_device(key, *args, **kwargs)
        weight.patches = [(self.patches[key], key)] if key in self.patches else []

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        for parameter in self.model.parameters() if unpatch_weights else ():
            if isinstance(parameter, PackedTensor):
                parameter.patches = []
        return super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

    def load(self, *args, force_patch_weights=False, **kwargs):
        super().load(*args, force_patch_weights=True, **kwargs)


def linear_weights(network: nn.Module) -> set[str]:
    """The names of the weights that are packed."""
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}


def loaded(network: nn.Module) -> ModelPatcher:
    """The MODEL of a network whose Linear weights are packed."""
    linear = linear_weights(network)
    state = {n: pack(tensor) if n in linear else tensor.clone() for n, tensor in network.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(state, {"custom_operations": Operations})
    model.__class__ = Patcher
    return model
