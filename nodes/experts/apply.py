"""Putting experts on a MODEL and taking them off again, with nothing but the host's own patch mechanisms."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...dcm_core.expert.layers import Expert
from ...dcm_core.expert.metadata import ExpertMetadata
from ...dcm_core.expert.sidecar import Sidecar
from ...dcm_core.schedule.experts import ExpertSchedule
from ...dcm_core.schedule.passport import Passport
from ..backbone.host import (
    add_outermost_wrapper,
    dtype_of_computation,
    remove_object_patches,
    remove_weight_patches,
    set_maker,
)
from ..backbone.host_layers import HOST_LAYERS, beside_network
from ..backbone.model import as_released, family_of, trained_sigmas_of_semantic
from .merge import merge_expert
from .switch import CachePerExpert, ExpertSwitch

ATTACHMENT = "dcm_experts"


@dataclass(frozen=True)
class Applied:
    """What DCMApplyExperts put on a MODEL; it travels along as an attachment, through every stock node."""

    schedule: ExpertSchedule
    detail: Expert
    detail_strength: float
    trained_sigmas: Tensor | None = None  # the noise levels [N + 1] of the run they were trained for, if for one alone
    passport: Passport | None = None  # what was written into their files as into a speed LoRA's
    key: str = field(default_factory=lambda: f"dcm-{uuid.uuid4()}")
    patches: list[tuple[str | tuple, object]] = field(default_factory=list)  # of merged experts, by weight
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)  # likewise, for bare Parameters
    baked: str | None = None  # "semantic" or "detail" where DCMBake has left one expert, in the weights

    @property
    def metadata(self) -> ExpertMetadata:
        """What a run goes by, where two files differ: the detail expert's."""
        return self.detail.metadata

    @property
    def only(self) -> str | None:
        """The one expert of a MODEL that is meant to run beside another MODEL; None where there are both."""
        if self.baked or not self.metadata.pair:
            return self.baked
        return "detail" if self.detail.layers else "semantic"


def applied_to(model: ModelPatcher) -> Applied | None:
    """The experts of a MODEL; None for one without."""
    return model.get_attachment(ATTACHMENT)


def schedule_of(model: ModelPatcher) -> ExpertSchedule:
    """The schedule of the MODEL's experts; without experts, the one its family's experts are made for."""
    applied = applied_to(model)
    return applied.schedule if applied else family_of(model).schedule


def trained_sigmas_of(model: ModelPatcher) -> Tensor | None:
    """The noise levels [N + 1] of the run that the MODEL's experts were trained for; None where they hold for any."""
    applied = applied_to(model)
    return applied.trained_sigmas if applied else trained_sigmas_of_semantic(model)


def both_trained_sigmas(
    model: ModelPatcher, detail: Expert, semantic: Expert | None
) -> tuple[Tensor | None, Tensor | None]:
    """The noise levels that the semantic expert, or the MODEL as one, and the detail expert were trained for."""
    above = semantic.metadata.trained_sigmas if semantic else trained_sigmas_of_semantic(model)
    return above, detail.metadata.trained_sigmas


def trained_steps_of(model: ModelPatcher) -> int | None:
    """The number of steps that the MODEL's experts were trained for; None where they hold for any."""
    sigmas = trained_sigmas_of(model)
    return None if sigmas is None else len(sigmas) - 1


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
    the detail expert lies beside the network and acts in its own calls only, or of a pair in all calls of its MODEL.
    Raises ValueError naming each tensor of the semantic expert that the host would not take.
    """
    model = as_released(model.clone(), schedule.grid)
    remove_experts(model)
    patches, parameters = merge_expert(model, semantic, semantic_strength) if semantic else ({}, {})
    above, below = both_trained_sigmas(model, detail, semantic)
    applied = Applied(
        schedule,
        detail,
        detail_strength,
        above if below is None else below,
        detail.metadata.passport or (semantic.metadata.passport if semantic else None),
        patches=list(patches.items()),
        parameters=parameters,
    )
    dtype = dtype_of_computation(model)
    side = side_model(detail, detail_strength, dtype, model.load_device, model.offload_device)
    model.set_additional_models(applied.key, [side])
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, applied.key, ExpertSwitch(schedule, side.model, applied.only))
    # Outermost: a cache that is there already answers some calls without asking what lies inside.
    add_outermost_wrapper(model, WrappersMP.PREDICT_NOISE, applied.key, CachePerExpert(schedule))
    model.set_attachments(ATTACHMENT, applied)
    return model


def bake(model: ModelPatcher) -> tuple[ModelPatcher, ModelPatcher]:
    """(semantic MODEL, detail MODEL) of a MODEL with experts: clones with one expert each, in their weights.

    Both keep the experts' schedule, and what other nodes have put on the MODEL. Raises ValueError for a MODEL without
    experts, and one naming each tensor of the detail expert that the host would not take.
    """
    applied = applied_to(model)
    if applied is None or applied.only:
        where = "in its weights already" if applied and applied.baked else "alone"
        has = f"holds the {applied.only} expert {where}" if applied else "has no experts"
        raise ValueError(f"This MODEL {has}: connect one that comes from DCM Apply Experts with both.")
    semantic = model.clone()
    semantic.remove_additional_models(applied.key)
    kept = [
        (kind, wrapper)
        for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
        for wrapper in semantic.get_wrappers(kind, applied.key)
        if not isinstance(wrapper, ExpertSwitch)
    ]
    remove_wrappers(semantic, applied)
    for kind, wrapper in kept:
        semantic.add_wrapper_with_key(kind, applied.key, wrapper)
    semantic.set_attachments(ATTACHMENT, replace(applied, baked="semantic"))
    detail = semantic.clone()
    patches, parameters = merge_expert(detail, applied.detail, applied.detail_strength)
    both = replace(
        applied,
        baked="detail",
        patches=[*applied.patches, *patches.items()],
        parameters=applied.parameters | parameters,
    )
    detail.set_attachments(ATTACHMENT, both)
    return semantic, detail


def side_model(
    expert: Expert,
    strength: float,
    dtype: torch.dtype,
    load_device: torch.device,
    offload_device: torch.device,
) -> ModelPatcher:
    """The expert's tensors as a model of their own, so that the host counts, loads and offloads them.

    They are in the ``dtype`` that the network computes in: copies made for each use would be nobody's to count.
    """
    sidecar = Sidecar(expert, strength, HOST_LAYERS)
    sidecar.terms.to(dtype)
    side = beside_network(sidecar, load_device, offload_device)
    set_maker(side, side_model, expert, strength, dtype, load_device, offload_device)
    return side


def remove_wrappers(model: ModelPatcher, applied: Applied) -> None:
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL, WrappersMP.PREDICT_NOISE):
        model.remove_wrappers_with_key(kind, applied.key)


def remove_experts(model: ModelPatcher) -> None:
    """Take the experts off this MODEL (already a clone), and nothing else."""
    applied = applied_to(model)
    if applied is None:
        return
    model.remove_attachments(ATTACHMENT)
    remove_wrappers(model, applied)
    model.remove_additional_models(applied.key)
    remove_weight_patches(model, applied.patches)
    remove_object_patches(model, applied.parameters)
