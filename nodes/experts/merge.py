"""Merging an expert into the weights of a MODEL, with nothing but the host's own patch mechanisms."""

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dcm_core.expert.fingerprint import logical_shapes
from ...dcm_core.expert.layers import Expert, FusedLowRank, Layer, LowRank, Replacement
from ...dcm_core.expert.spelling import as_spelled
from ..backbone.host import PREFIX, WeightPatches, lora_adapter, network_of


def merge_expert(
    model: ModelPatcher, expert: Expert, strength: float
) -> tuple[WeightPatches, dict[str, nn.Parameter]]:
    """Add the expert to the weights of this MODEL (already a clone): (weight patches, changed bare Parameters).

    The host accepts weight patches for a bare Parameter of a non-leaf module (Wan's modulation) and never applies them,
    so those are replaced whole. A bias that a file has beside a low-rank pair is no such Parameter: newer hosts set
    room aside for a layer's tensors as they are stored, so it is patched, which keeps its dtype.
    Raises ValueError naming each tensor that the host would not take.
    """
    if strength == 0:  # patching would still round fp8 weights anew
        return {}, {}
    expert = as_spelled(expert, logical_shapes(network_of(model)))
    bare = {PREFIX + name: difference for name, difference in expert.parameters.items()}
    of_layers = {
        name: ("diff", (bare.pop(name),)) for name in list(bare) if name.endswith((".weight", ".bias"))
    }
    patches: WeightPatches = {}
    for replaced in (False, True):
        group: WeightPatches = {} if replaced else of_layers
        for name, layer in expert.layers.items():
            if isinstance(layer, Replacement) is replaced:
                group |= layer_patches(f"{PREFIX}{name}", layer)
        refused = group.keys() - set(model.add_patches(group, strength, 1 - strength if replaced else 1.0))
        if refused:
            raise ValueError(
                f"The host did not take {len(refused)} tensors of the {expert.metadata.expert} expert: "
                f"{sorted(map(str, refused))}"
            )
        patches |= group
    parameters = {
        name: changed_parameter(model.get_model_object(name), difference, strength)
        for name, difference in bare.items()
    }
    for name, parameter in parameters.items():
        model.add_object_patch(name, parameter)
    return patches, parameters


def layer_patches(name: str, layer: Layer) -> WeightPatches:
    """What the host is to add to a layer's weights at strength 1; for a Replacement, to weights scaled by 0."""
    if isinstance(layer, LowRank):
        return {f"{name}.weight": lora_adapter(layer.down, layer.up, layer.alpha)}
    if isinstance(layer, FusedLowRank):
        rows = layer.down.shape[1]
        pairs = zip(layer.down.chunk(layer.parts), layer.up.chunk(layer.parts), strict=True)
        return {
            (f"{name}.weight", (0, part * rows, rows)): lora_adapter(down, up, layer.alpha)
            for part, (down, up) in enumerate(pairs)
        }
    tensors = {"weight": layer.weight, "bias": layer.bias}
    return {f"{name}.{key}": ("diff", (tensor,)) for key, tensor in tensors.items() if tensor is not None}


def changed_parameter(base: Tensor, difference: Tensor, strength: float) -> nn.Parameter:
    """base + strength * difference, in the base's dtype, or float32 where that is a one-byte storage format."""
    dtype = base.dtype if base.dtype.itemsize >= 2 else torch.float32
    changed = base.detach().float() + strength * difference.to(base.device, torch.float32)
    return nn.Parameter(changed.to(dtype), requires_grad=False)
