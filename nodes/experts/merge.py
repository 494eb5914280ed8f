"""Merging an expert into the weights of a MODEL, with nothing but the host's own patch mechanisms."""

from __future__ import annotations

import comfy.weight_adapter
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...dcm_core.expert.arithmetic import with_difference
from ...dcm_core.expert.fingerprint import logical_shapes
from ...dcm_core.expert.host_names import in_host_names
from ...dcm_core.expert.layers import Expert, Layer, LowRank
from ..backbone.model import PREFIX, network_of

# By the name of a weight or, for some rows of it, (name, (dimension, first row, number of rows)).
Patches = dict[str | tuple, object]


def merge_expert(
    model: ModelPatcher, expert: Expert, strength: float
) -> tuple[Patches, dict[str, nn.Parameter]]:
    """Add the expert to the weights of this MODEL (already a clone): (weight patches, changed bare Parameters).

    The host accepts weight patches for a bare Parameter of a non-leaf module (Wan's modulation) and never applies them,
    so those are replaced whole. A bias that a file has beside a low-rank pair is no such Parameter: newer hosts set
    room aside for a layer's tensors as they are stored, so it is patched, which keeps its dtype.
    Raises ValueError naming each tensor that the host would not take.
    """
    if strength == 0:  # patching would still round fp8 weights anew
        return {}, {}
    expert = in_host_names(expert, logical_shapes(network_of(model)))
    bare = {PREFIX + name: difference for name, difference in expert.parameters.items()}
    of_layers: Patches = {
        name: ("diff", (bare.pop(name),)) for name in list(bare) if name.endswith((".weight", ".bias"))
    }
    patches: Patches = {}
    for replaced in (False, True):
        group: Patches = {} if replaced else of_layers
        for name, layer in expert.layers.items():
            if layer.replaces is replaced:
                group |= layer_patches(f"{PREFIX}{name}", layer)
        refused = group.keys() - set(model.add_patches(group, strength, 1 - strength if replaced else 1.0))
        if refused:
            raise ValueError(
                f"The host did not take {len(refused)} tensors of the {expert.metadata.expert} expert: "
                f"{sorted(map(str, refused))}"
            )
        patches |= group
    parameters = {}
    for name, difference in bare.items():
        changed = with_difference(model.get_model_object(name).detach(), difference, strength)
        parameters[name] = nn.Parameter(changed, requires_grad=False)
        model.add_object_patch(name, parameters[name])
    return patches, parameters


def layer_patches(name: str, layer: Layer) -> Patches:
    """What the host is to add to a layer's weights at strength 1; for a layer that replaces, to weights scaled by 0."""
    patches: Patches = {f"{name}.{key}": ("diff", (tensor,)) for key, tensor in layer.tensors.items()}
    for first, pair in layer.pairs:
        rows = pair.up.shape[0]
        whole = rows == layer.shapes["weight"][0]
        patches[f"{name}.weight" if whole else (f"{name}.weight", (0, first, rows))] = adapter(pair)
    return patches


def adapter(pair: LowRank) -> comfy.weight_adapter.LoRAAdapter:
    """A low-rank pair as the host knows it."""
    return comfy.weight_adapter.LoRAAdapter(set(), (pair.up, pair.down, pair.alpha, None, None, None))


def take_off(
    model: ModelPatcher, merged: list[tuple[str | tuple, object]], parameters: dict[str, nn.Parameter]
) -> None:
    """Undo `merge_expert` on this MODEL (already a clone); patches of others on the same weights stay."""
    ours = {id(patch) for _, patch in merged}
    for key, _ in merged:
        name = key if isinstance(key, str) else key[0]
        others = [entry for entry in model.patches.pop(name, []) if id(entry[1]) not in ours]
        if others:
            model.patches[name] = others
    for name, parameter in parameters.items():
        if model.object_patches.get(name) is parameter:
            del model.object_patches[name]
