"""An expert as plain tensors, for where weights may be changed: the trainer, the demo, a merged export."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .expert import Expert, ExpertFileError, LowRank
from .tensor_names import shortened


def weight_differences(expert: Expert) -> dict[str, Tensor]:
    """What the expert adds to each parameter at strength 1, by full name, with low-rank pairs multiplied out.

    Products are float32 [out, in]; differences are the expert's own tensors.
    """
    differences = dict(expert.parameters)
    for name, layer in expert.layers.items():
        if isinstance(layer, LowRank):
            differences[f"{name}.weight"] = layer.scale * (layer.up.float() @ layer.down.float())
            continue
        for key in layer.shapes:
            differences[f"{name}.{key}"] = getattr(layer, key)
    return differences


def merged(state: Mapping[str, Tensor], expert: Expert, strength: float = 1.0) -> dict[str, Tensor]:
    """The backbone's state dict (ComfyUI names) with the expert added; untouched tensors are the same
    objects.

    Sums are made in float32 and kept in the backbone's dtype and on its device. Raises ExpertFileError that
    names the parameters the backbone lacks or has in another shape.
    """
    differences = weight_differences(expert)
    wrong = [
        name for name, tensor in differences.items() if name not in state or state[name].shape != tensor.shape
    ]
    if wrong:
        raise ExpertFileError(f"the backbone has no parameter of that name and shape: {shortened(wrong)}")
    result = dict(state)
    for name, difference in differences.items():
        base = state[name]
        total = base.float() + strength * difference.to(base.device, torch.float32)
        result[name] = total.to(base.dtype)
    return result
