"""Merging an expert into the weights of a MODEL, with nothing but the host's own patch mechanisms."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from torch import nn

from ...dcm_core.errors import shortened
from ...dcm_core.expert.host_names import in_host_names
from ...dcm_core.expert.layers import Expert, Layer
from ...dcm_core.expert.merge import with_difference
from ..backbone.host import PREFIX, WeightPatches, lora_adapter
from ..backbone.model import shapes_of
from ..backbone.out_of_reach import COMPILE_OTHERWISE, is_compiled_in_place


def merge_expert(model: ModelPatcher, expert: Expert, strength: float) -> tuple[WeightPatches, dict[str, nn.Parameter]]:
    """Add the expert to the weights of this MODEL (already a clone): (weight patches, changed bare Parameters).

    The host accepts weight patches for a bare Parameter of a non-leaf module (Wan's modulation) and never applies them,
    so those are replaced whole. A bias that a file has beside a low-rank pair is no such Parameter: newer hosts set
    room aside for a layer's tensors as they are stored, so it is patched, which keeps its dtype.
    Raises ValueError naming each tensor that the host would not take.
    """
    if strength == 0:  # patching would still round fp8 weights anew
        return {}, {}
    expert = in_host_names(expert, shapes_of(model))
    bare = {PREFIX + name: difference for name, difference in expert.parameters.items()}
    of_layers: WeightPatches = {
        name: ("diff", (bare.pop(name),)) for name in list(bare) if name.endswith((".weight", ".bias"))
    }
    patches: WeightPatches = {}
    for replaced in (False, True):
        group = WeightPatches() if replaced else of_layers
        for name, layer in expert.layers.items():
            if layer.replaces is replaced:
                group |= layer_patches(f"{PREFIX}{name}", layer)
        refused = group.keys() - set(model.add_patches(group, strength, 1 - strength if replaced else 1.0))
        if refused:
            cause = f". {COMPILE_OTHERWISE}." if is_compiled_in_place(model) else ""
            raise ValueError(
                f"ComfyUI did not take {len(refused)} tensors of the {expert.metadata.expert} expert: "
                f"{shortened(sorted(map(str, refused)))}{cause}"
            )
        patches |= group
    parameters = {}
    for name, difference in bare.items():
        changed = with_difference(model.get_model_object(name).detach(), difference, strength)
        parameters[name] = nn.Parameter(changed, requires_grad=False)
        model.add_object_patch(name, parameters[name])
    return patches, parameters


def layer_patches(name: str, layer: Layer) -> WeightPatches:
    """What the host is to add to a layer's weights at strength 1; for a layer that replaces, to weights scaled by 0."""
    patches: WeightPatches = {f"{name}.{key}": ("diff", (tensor,)) for key, tensor in layer.tensors.items()}
    for first, pair in layer.pairs:
        rows = pair.up.shape[0]
        whole = rows == layer.shapes["weight"][0]
        key = f"{name}.weight" if whole else (f"{name}.weight", (0, first, rows))
        patches[key] = lora_adapter(pair.down, pair.up, pair.alpha)
    return patches
