"""An expert as plain tensors and back, for where weights may be changed: the trainer, the demo, a merged export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ExpertFileError, shortened
from .host_names import in_host_names
from .layers import Difference, Expert, FusedLowRank, Layer, LowRank, Replacement


def weight_differences(expert: Expert, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the expert adds to each parameter of ``state`` at strength 1: float32, by full name, pairs multiplied out.

    Raises ExpertFileError that names the parameters the backbone lacks or has in another shape.
    """
    expert = in_host_names(expert, state)
    shapes = expert.shapes()
    wrong = [name for name, shape in shapes if name not in state or tuple(state[name].shape) != shape]
    if wrong:
        raise ExpertFileError(f"the backbone has no parameter of that name and shape: {shortened(wrong)}")
    differences = {name: difference.float() for name, difference in expert.parameters.items()}
    for name, layer in expert.layers.items():
        own = {key: state[f"{name}.{key}"] for key in layer.shapes}
        differences |= {f"{name}.{key}": tensor for key, tensor in layer.delta(own).items()}
    return differences


def merged(state: Mapping[str, Tensor], expert: Expert, strength: float = 1.0) -> dict[str, Tensor]:
    """The backbone's state dict (ComfyUI names) with the expert added; untouched tensors are the same objects.

    Sums are made in float32 and kept in the backbone's dtype and on its device. Raises as ``weight_differences``.
    """
    result = dict(state)
    for name, difference in weight_differences(expert, state).items():
        result[name] = with_difference(state[name], difference, strength).to(state[name].dtype)
    return result


def layers_of(
    tensors: Mapping[str, Tensor], kind: type[Difference] | type[Replacement] = Difference
) -> tuple[dict[str, Layer], dict[str, Tensor]]:
    """(layers, bare Parameters) of tensors by full name: weights and biases belong to the layer they are named by."""
    parts: dict[str, dict[str, Tensor]] = {}
    parameters: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, key = name.rpartition(".")
        if key in ("weight", "bias"):
            parts.setdefault(layer, {})[key] = tensor
        else:
            parameters[name] = tensor
    return {layer: kind(**own) for layer, own in parts.items()}, parameters


def in_one_layer(pairs: Sequence[LowRank], rows: int) -> Layer:
    """The low-rank pairs of the projections that a layer of so many rows begins with; a single one is the layer's."""
    first, *others = pairs
    if not others:
        return first
    downs, ups = [pair.down for pair in pairs], [pair.up for pair in pairs]
    return FusedLowRank(torch.cat(downs), torch.cat(ups), first.alpha, rows)


def with_difference(base: Tensor, difference: Tensor, strength: float = 1.0) -> Tensor:
    """``base + strength * difference``, summed in float32, on the device of ``base`` and in its dtype.

    A base in a one-byte storage format gives float32: rounding the sum to fp8 would lose most of the difference.
    """
    dtype = base.dtype if base.dtype.itemsize > 1 else torch.float32
    return (base.float() + strength * difference.to(base.device, torch.float32)).to(dtype)
