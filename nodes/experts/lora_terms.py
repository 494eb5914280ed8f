"""The patches of a LoRA beside a network's layers, for the calls of one expert: ComfyUI's own sums, made as it calls.

A plain low-rank pair, and a difference, act as an expert's do. Other kinds are put into the weight as it was cast for
the call, and where a layer shows none (fp8 products, GGUF), what they add goes beside its product. A convolution or
a norm is left to run, and what it would make with the change in the place of its weight is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...dcm_core.expert.file import all_finite
from ...dcm_core.expert.layers import Difference, Layer, LowRank
from ...dcm_core.expert.terms import TERMS, LayerTerm, Work, check_shape, plus_product
from ...dcm_core.expert.watch import Modules
from ..backbone.host import PREFIX, WeightPatches
from ..backbone.host_layers import opened
from ..backbone.host_lora import (
    Rows,
    difference_of,
    is_additive,
    mapped,
    pair_of,
    patched,
    target_of,
    tensors_of,
)

Respond = Callable[[Tensor, Tensor], Tensor]
_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_NORMS = {nn.LayerNorm: F.layer_norm, nn.RMSNorm: F.rms_norm}


@dataclass(frozen=True)
class _Slot:
    """The place of a tensor in a patch."""

    name: str


class PatchTerm(LayerTerm):
    """A patch of a Linear layer's weight [out, in] or bias [out], of any kind that ComfyUI computes."""

    def __init__(self, name: str, part: str, shape: tuple[int, ...], patch: Any, rows: Rows | None):
        tensors: dict[str, Tensor] = {}

        def keep(tensor: Tensor) -> _Slot:
            slot = _Slot(f"tensor_{len(tensors)}")
            tensors[slot.name] = tensor
            return slot

        self_patch = mapped(patch, Tensor, keep)
        super().__init__(name, {part: shape}, **tensors)
        self.patch, self.part, self.rows, self.within_only = self_patch, part, rows, not is_additive(patch)

    def patched(self, tensor: Tensor, strength: float) -> Tensor:
        """A weight or a bias with the patch in it, in float32."""
        patch = mapped(self.patch, _Slot, lambda slot: self.moved(slot.name, tensor))
        return patched(patch, self.rows, tensor, strength, self.name)

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        if self.within_only:
            raise ValueError(without_weight([self.name]))
        nothing = torch.zeros(self.shapes[self.part], device=x.device)
        change = self.patched(nothing, strength).to(x.dtype)
        return plus_product(y, x, change, 1.0) if self.part == "weight" else y.add_(change)

    def beside(self, rows: int) -> Work:
        sizes = torch.Size(self.shapes[self.part])
        made = self.within()
        return Work(made.flops + 2 * rows * sizes.numel(), made.moved + rows * sum(sizes))

    def within(self) -> Work:
        numbers = torch.Size(self.shapes[self.part]).numel()
        return Work(2 * numbers, 4 * numbers)

    def merged(self, weight: Tensor, bias: Tensor | None, strength: float) -> tuple[Tensor, Tensor | None]:
        if self.part == "weight":
            return self.patched(weight, strength).to(weight.dtype), bias
        return weight, None if bias is None else self.patched(bias, strength).to(bias.dtype)


class ResponseTerm(LayerTerm):
    """A change of a layer that is no Linear, but whose output is linear in its weight and in its bias.

    It stays in float32 until it has its strength: float16 may have no room for it before.
    """

    def __init__(self, name: str, part: str, change: Tensor, respond: Respond):
        super().__init__(name, {part: tuple(change.shape)}, **{part: change})
        self.part, self.respond = part, respond

    def target(self, model: Modules) -> nn.Module:
        module = model.get_submodule(self.name)
        tensor: Any = getattr(module, self.part)
        check_shape(f"{self.name}.{self.part}", self.shapes[self.part], tuple(tensor.shape))
        return module

    def forward(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        change = strength * self.moved(self.part, x)
        return y.add_(self.respond(x, change.to(x.dtype)))


def terms_of(
    network: nn.Module, patches: WeightPatches, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> tuple[list[LayerTerm], dict[str, Tensor]]:
    """(terms, differences of bare Parameters by name) of patches that fit the network.

    Low-rank pairs and differences are in the ``dtype`` that the network computes in, the tensors of other kinds, and
    those that it has no room for, as the file has them. Raises ValueError naming what cannot act in the calls of one
    expert only.
    """
    terms: list[LayerTerm] = []
    parameters: dict[str, Tensor] = {}
    hidden, unknown = [], []
    for key, patch in patches.items():
        full, rows = target_of(key)
        name = full.removeprefix(PREFIX)
        layer, _, part = name.rpartition(".")
        module: Any = network.get_submodule(layer)
        if hasattr(module, "in_features"):
            made = _plain(patch, part) if rows is None and stays_finite(patch, dtype) else None
            if made:
                terms.append(TERMS[type(made)](layer, made.map(lambda tensor: tensor.to(dtype))))
                continue
            term = PatchTerm(layer, part, shapes[name], patch, rows)
            terms.append(term)
            if term.within_only and opened(module) is None:
                hidden.append(name)
            continue
        respond = _response(module, part)
        if not is_additive(patch) or (respond is None and is_of_layer(name)):
            unknown.append(name)
            continue
        change = patched(patch, rows, torch.zeros(shapes[name]), 1.0, name)
        if respond:
            terms.append(ResponseTerm(layer, part, change, respond))
        else:
            parameters[name] = change
    if hidden:
        raise ValueError(without_weight(hidden))
    if unknown:
        raise ValueError(
            f"The LoRA changes {', '.join(unknown)} in a way that cannot be switched during a run. Give both strengths "
            "the same value."
        )
    return terms, parameters


def stays_finite(patch: Any, dtype: torch.dtype) -> bool:
    """Are the patch's tensors finite in this dtype? In float16, half of an uneven pair may not be."""
    return dtype != torch.float16 or all(all_finite(tensor.to(dtype)) for tensor in tensors_of(patch))


def without_weight(names: list[str]) -> str:
    """What to say of changes that need weights which cannot be seen."""
    return (
        f"The LoRA measures or replaces the weights of {', '.join(names[:4])}, which are packed here or belong to "
        "another extension. Give both strengths the same value, or use a backbone in bf16 or fp16."
    )


def is_of_layer(name: str) -> bool:
    """Is this the weight or the bias of a layer? Other Parameters ComfyUI takes patches for, and leaves as they are."""
    return name.endswith((".weight", ".bias"))


def _plain(patch: Any, part: str) -> Layer | None:
    """A patch of a Linear layer as an expert's layer; None for one of another kind."""
    difference = difference_of(patch)
    if difference is not None:
        return Difference(**{part: difference})
    pair = pair_of(patch) if part == "weight" else None
    return LowRank(*pair) if pair else None


def _response(module: Any, part: str) -> Respond | None:
    """From the input of a layer and a change of its weight or bias to the change of its output."""
    for kind, convolve in _CONVOLUTIONS.items():
        if isinstance(module, kind) and module.padding_mode == "zeros":
            options = {each: getattr(module, each) for each in ("stride", "padding", "dilation", "groups")}
            if part == "weight":
                return partial(convolve, **options)
            return lambda x, bias: bias.view(-1, *[1] * (x.ndim - 2))
    for kind, norm in _NORMS.items():
        if isinstance(module, kind):
            options = {"normalized_shape": module.normalized_shape, "eps": module.eps}
            return partial(_normed, norm=norm, **options) if part == "weight" else lambda x, bias: bias
    return None


def _normed(x: Tensor, change: Tensor, norm: Callable[..., Tensor], **options: Any) -> Tensor:
    return norm(x, weight=change, **options)
