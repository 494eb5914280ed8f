"""Putting experts on a MODEL and taking them off again, with nothing but the host's own patch mechanisms."""

import uuid
from dataclasses import dataclass, field

import comfy.model_patcher
import comfy.weight_adapter
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..dcm_core.expert import Expert, LowRank, Replacement
from ..dcm_core.schedule import ExpertSchedule, preset
from ..dcm_core.sidecar import Sidecar
from .backbones import PREFIX, family_of
from .expert_switch import ExpertSwitch

ATTACHMENT = "dcm_experts"


@dataclass(frozen=True)
class Applied:
    """What DCMApplyExperts put on a MODEL; it travels along as an attachment, through every stock node."""

    schedule: ExpertSchedule
    guidance: float  # what the experts were trained under, in the terms of their family
    key: str = field(default_factory=lambda: f"dcm-{uuid.uuid4()}")
    patches: dict[str, object] = field(default_factory=dict)  # the semantic expert's, by weight name
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)  # likewise, for bare Parameters


def applied_to(model: ModelPatcher) -> Applied | None:
    return model.get_attachment(ATTACHMENT)


def schedule_of(model: ModelPatcher) -> ExpertSchedule:
    """The schedule of the MODEL's experts; without experts, the one its family's experts are made for."""
    applied = applied_to(model)
    return applied.schedule if applied else preset(family_of(model))


def switch_text(schedule: ExpertSchedule) -> str:
    """Which expert acts where, in one line."""
    example = schedule.describe(schedule.sigmas(4))
    return f"SemE above sigma {schedule.switch_sigma:.4f}, DetE from there down; 4 steps: {example}"


def apply_experts(
    model: ModelPatcher,
    schedule: ExpertSchedule,
    detail: Expert,
    detail_strength: float = 1.0,
    semantic: Expert | None = None,
    semantic_strength: float = 1.0,
) -> ModelPatcher:
    """A clone of the MODEL with these experts in place of any it had; other patches stay.

    The semantic expert becomes weight patches, since most calls of a run need it and the detail expert builds on it;
    the detail expert lies beside the network and acts in its own calls only.
    Raises ValueError naming each tensor of the semantic expert that the host would not take.
    """
    model = model.clone()
    remove_experts(model)
    # At strength 0, patching would still round fp8 weights anew.
    acts = semantic is not None and semantic_strength != 0
    patches, parameters = semantic_patches(model, semantic, semantic_strength) if acts else ({}, {})
    applied = Applied(schedule, detail.metadata.guidance, patches=patches, parameters=parameters)
    refused = patches.keys() - set(model.add_patches(patches, semantic_strength))
    if refused:
        raise ValueError(
            f"The host did not take {len(refused)} tensors of the semantic expert: {sorted(refused)}"
        )
    for name, parameter in parameters.items():
        model.add_object_patch(name, parameter)
    side = side_model(detail, detail_strength, model.load_device, model.offload_device)
    model.set_additional_models(applied.key, [side])
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, applied.key, ExpertSwitch(schedule, side.model))
    model.set_attachments(ATTACHMENT, applied)
    return model


def semantic_patches(
    model: ModelPatcher, expert: Expert, strength: float
) -> tuple[dict[str, object], dict[str, nn.Parameter]]:
    """(weight patches, changed bare Parameters) by the host's names.

    The host accepts weight patches for a bare Parameter of a non-leaf module (Wan's modulation) and never applies them,
    so those are replaced whole. Raises ValueError for a strength other than 1 where the expert sets weights.
    """
    patches: dict[str, object] = {}
    for name, layer in expert.layers.items():
        if isinstance(layer, LowRank):
            weights = (layer.up, layer.down, layer.alpha, None, None, None)
            patches[f"{PREFIX}{name}.weight"] = comfy.weight_adapter.LoRAAdapter(set(), weights)
            continue
        exact = isinstance(layer, Replacement)
        if exact and strength != 1:
            raise ValueError(
                f"The semantic expert sets the weight of {name}, which cannot be scaled: use a semantic_strength of 1."
            )
        for key, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            if tensor is not None:
                patches[f"{PREFIX}{name}.{key}"] = ("set" if exact else "diff", (tensor,))
    parameters = {
        PREFIX + name: changed_parameter(model.get_model_object(PREFIX + name), difference, strength)
        for name, difference in expert.parameters.items()
    }
    return patches, parameters


def changed_parameter(base: Tensor, difference: Tensor, strength: float) -> nn.Parameter:
    """base + strength * difference, in the base's dtype, or float32 where that is a one-byte storage format."""
    dtype = base.dtype if base.dtype.itemsize >= 2 else torch.float32
    changed = base.detach().float() + strength * difference.to(base.device, torch.float32)
    return nn.Parameter(changed.to(dtype), requires_grad=False)


def side_model(
    expert: Expert, strength: float, load_device: torch.device, offload_device: torch.device
) -> ModelPatcher:
    """The expert's tensors as a model of their own, so that the host counts, loads and offloads them."""
    side = comfy.model_patcher.ModelPatcher(Sidecar(expert, strength), load_device, offload_device)
    # From this, newer hosts make another one for each further GPU.
    side.cached_patcher_init = (side_model, (expert, strength, load_device, offload_device))
    return side


def remove_experts(model: ModelPatcher) -> None:
    """Take the experts off this MODEL (already a clone), and nothing else."""
    applied = applied_to(model)
    if applied is None:
        return
    model.remove_attachments(ATTACHMENT)
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, applied.key)
    model.remove_additional_models(applied.key)
    for name, patch in applied.patches.items():
        others = [entry for entry in model.patches.pop(name, []) if entry[1] is not patch]
        if others:
            model.patches[name] = others
    for name, parameter in applied.parameters.items():
        if model.object_patches.get(name) is parameter:
            del model.object_patches[name]
    model.patches_uuid = uuid.uuid4()  # the host reloads weights only when this changes
