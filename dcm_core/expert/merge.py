"""An expert as plain tensors, for where weights may be changed: the trainer, the demo, a merged export."""

from collections.abc import Mapping

from torch import Tensor

from ..errors import ExpertFileError, shortened
from .layers import Expert, FusedLowRank, LowRank, Replacement
from .spelling import as_spelled


def weight_differences(expert: Expert, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the expert adds to each parameter of ``state`` at strength 1: float32, by full name, pairs multiplied out.

    Raises ExpertFileError that names the parameters the backbone lacks or has in another shape.
    """
    expert = as_spelled(expert, state)
    differences = {name: difference.float() for name, difference in expert.parameters.items()}
    for name, layer in expert.layers.items():
        layer = layer.block if isinstance(layer, FusedLowRank) else layer
        if isinstance(layer, LowRank):
            differences[f"{name}.weight"] = layer.scale * (layer.up.float() @ layer.down.float())
            continue
        for key in layer.shapes:
            differences[f"{name}.{key}"] = getattr(layer, key).float()
    wrong = [
        name for name, tensor in differences.items() if name not in state or state[name].shape != tensor.shape
    ]
    if wrong:
        raise ExpertFileError(f"the backbone has no parameter of that name and shape: {shortened(wrong)}")
    for name, layer in expert.layers.items():
        if isinstance(layer, Replacement):
            for full in (f"{name}.{key}" for key in layer.shapes):
                differences[full] = differences[full] - state[full].to(differences[full])
    return differences


def merged(state: Mapping[str, Tensor], expert: Expert, strength: float = 1.0) -> dict[str, Tensor]:
    """The backbone's state dict (ComfyUI names) with the expert added; untouched tensors are the same objects.

    Sums are made in float32 and kept in the backbone's dtype and on its device. Raises as ``weight_differences``.
    """
    result = dict(state)
    for name, difference in weight_differences(expert, state).items():
        base = state[name]
        total = base.float() + strength * difference.to(base.device)
        result[name] = total.to(base.dtype)
    return result
