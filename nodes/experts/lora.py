"""LoRAs on a MODEL with a strength for the calls of each expert.

With one strength for both a LoRA is patches of the weights, as the stock loader makes them. Otherwise it lies beside
the network as a detail expert does, and its strength is that of whose call it is.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...dcm_core.errors import shortened
from ...dcm_core.expert.merge import with_difference
from ...dcm_core.expert.sidecar import Changes, acting
from ...dcm_core.schedule.experts import EXPERTS, ExpertKind, ExpertSchedule
from ..backbone.host import (
    PREFIX,
    WeightPatches,
    add_outermost_wrapper,
    dtype_of_computation,
    is_of,
    network_of,
    patched_weights,
    running_as,
    set_maker,
)
from ..backbone.host_layers import HOST_LAYERS, beside_network
from ..backbone.host_lora import is_additive, kind_of, numbers_of_patches, target_of
from ..backbone.model import family_of, shapes_of
from .apply import applied_to
from .lora_file import weight_of
from .lora_terms import is_of_layer, terms_of
from .switch import CachePerExpert, refuse_bypassed

ATTACHMENT = "dcm_loras"
RUN_SCHEDULE = "dcm_schedule"  # among a run's ``transformer_options``: the schedule of its guider, if that has one
_KEY = "dcm-loras"

Strengths = Mapping[str, float]  # by expert


@dataclass(frozen=True)
class Lora:
    """A LoRA ``file`` on a MODEL: what it changes, and what of it lies ``beside`` the network, if anything does.

    ``below``: how many patches the weights held when it was put there, by full name.
    """

    name: str
    file: Path
    strengths: Strengths
    patches: WeightPatches
    beside: Changes | None
    below: Mapping[str, int] = field(default_factory=dict)
    key: str = field(default_factory=lambda: f"dcm-lora-{uuid.uuid4()}")

    @property
    def in_weights(self) -> bool:
        """Are patches of the weights what its layers are changed by?"""
        return self.strengths["semantic"] == self.strengths["detail"]

    @property
    def weights(self) -> set[str]:
        """The names of the weights that it changes."""
        return set(map(weight_of, self.patches))

    @property
    def measured(self) -> set[str]:
        """The full names of the weights that it measures or replaces."""
        return {target_of(key)[0] for key, patch in self.patches.items() if not is_additive(patch)}


def loras_on(model: ModelPatcher) -> tuple[Lora, ...]:
    """The LoRAs that DCM LoRA put on a MODEL; it carries them along, through every stock node."""
    return model.get_attachment(ATTACHMENT) or ()


def add_lora(model: ModelPatcher, name: str, file: Path, patches: WeightPatches, strengths: Strengths) -> ModelPatcher:
    """A clone of the MODEL with one more LoRA, whose patches fit it.

    Raises ValueError naming what it cannot do with different strengths.
    """
    model = model.clone()
    in_weights = of_layers(patches) if strengths["semantic"] == strengths["detail"] else {}
    model.add_patches(in_weights, strengths["semantic"])
    beside, changes = {key: patch for key, patch in patches.items() if key not in in_weights}, None
    if beside:
        changes = Changes(*terms_of(network_of(model), beside, shapes_of(model), dtype_of_computation(model)))
    lora = Lora(name, file, strengths, patches, changes, numbers_of_patches(model))
    if changes:
        side = side_model(changes, model.load_device, model.offload_device)
        model.set_additional_models(lora.key, [side])
    model.set_attachments(ATTACHMENT, (*loras_on(model), lora))
    if changes and not model.get_wrappers(WrappersMP.APPLY_MODEL, _KEY):
        schedule = family_of(model).schedule
        # Outside of the experts, whichever node comes first: they build on layers as LoRAs have changed them.
        add_outermost_wrapper(model, WrappersMP.APPLY_MODEL, _KEY, LoraSwitch(schedule))
        add_outermost_wrapper(model, WrappersMP.PREDICT_NOISE, _KEY, CachePerCaller(schedule))
    return model


def side_model(changes: Changes, load_device: torch.device, offload_device: torch.device) -> ModelPatcher:
    """The tensors of a LoRA as a model of their own."""
    side = beside_network(changes, load_device, offload_device)
    set_maker(side, _further_side_model, changes, load_device, offload_device)
    return side


def _further_side_model(changes: Changes, *devices: torch.device) -> ModelPatcher:
    return side_model(copy.deepcopy(changes), *devices)


def into_weights(model: ModelPatcher, expert: ExpertKind) -> ModelPatcher:
    """The MODEL with its LoRAs as patches of the weights, at the strengths they have for this expert's calls.

    A clone where anything changes. What is in the weights already stays.
    """
    beside = [(lora, lora.beside) for lora in loras_on(model) if lora.beside]
    if not beside:
        return model
    model = model.clone()
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.PREDICT_NOISE):
        model.remove_wrappers_with_key(kind, _KEY)
    for lora, changes in beside:
        model.remove_additional_models(lora.key)
        strength = lora.strengths[expert]
        if not lora.in_weights and strength:
            model.add_patches(of_layers(lora.patches), strength)
        for name, difference in changes.parameter_differences.items() if strength else ():
            changed = with_difference(model.get_model_object(PREFIX + name).detach(), difference, strength)
            model.add_object_patch(PREFIX + name, nn.Parameter(changed, requires_grad=False))
    others = [lora for lora in loras_on(model) if not lora.beside]
    merged = [
        replace(lora, beside=None, strengths=dict.fromkeys(EXPERTS, lora.strengths[expert])) for lora, _ in beside
    ]
    model.set_attachments(ATTACHMENT, (*others, *merged))
    return model


def of_layers(patches: WeightPatches) -> WeightPatches:
    """Those that the host applies itself: of weights and biases of layers."""
    return {key: patch for key, patch in patches.items() if is_of_layer(weight_of(key))}


def caller(model: ModelPatcher, sigma: Tensor, options: Mapping[str, Any], schedule: ExpertSchedule) -> str:
    """Whose call of the network this is, at noise level ``sigma`` [B]: as the MODEL's experts say, else as the run does
    (of a pair each MODEL has the calls of one), else as ``schedule`` does.

    Raises ValueError for sigmas of both in one call.
    """
    applied = applied_to(model)
    if applied and applied.only:
        return applied.only
    return (applied.schedule if applied else options.get(RUN_SCHEDULE, schedule)).acting(sigma)


class LoraSwitch:
    """An APPLY_MODEL wrapper: the LoRAs beside the network act in each call at the strength for its expert."""

    def __init__(self, schedule: ExpertSchedule):
        self.schedule = schedule

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        """x [B, C, T, H, W] at t [B] (the host's sigmas) to the denoised x.

        Raises ValueError for sigmas of both experts in one call, and for layers that a LoRA did not act on.
        """
        options, model = transformer_options or {}, executor.class_obj
        arguments = x, t, c_concat, c_crossattn, control, options
        if not is_of(model, WrappersMP.APPLY_MODEL, self):
            return executor(*arguments, **kwargs)
        running = running_as(model)
        expert = caller(running, t, options, self.schedule)
        changes = [(lora.beside, lora.strengths[expert]) for lora in loras_on(running) if lora.beside]
        with acting(model.diffusion_model, changes, HOST_LAYERS) as watch:
            denoised = executor(*arguments, **kwargs)
        refuse_bypassed(watch.bypassed(), "A LoRA", "Give both of its strengths the same value")
        return denoised


class CachePerCaller(CachePerExpert):
    """The same for LoRAs, which ask at each call whose it is."""

    def expert(self, guider: Any, sigma: Tensor, options: Mapping[str, Any]) -> str:
        return caller(guider.model_patcher, sigma, options, self.schedule)


def strengths_text(model: ModelPatcher, strengths: Strengths) -> str:
    """Where a LoRA acts with which strength, in one line."""
    semantic, detail = strengths["semantic"], strengths["detail"]
    if semantic == detail:
        return f"strength {semantic:g} in all steps"
    applied, family = applied_to(model), family_of(model)
    if applied and applied.only:
        return f"strength {strengths[applied.only]:g}, for this MODEL takes the {applied.only} steps only"
    schedule = applied.schedule if applied else family.schedule
    switch = schedule.spell(schedule.switch_sigma)
    pair = "; DCM KSampler and DCM Guider give each MODEL of a pair its side's" if family.pair and not applied else ""
    return f"strength {semantic:g} above {switch}, {detail:g} from there down{pair}"


def shared_text(model: ModelPatcher, patches: WeightPatches) -> str:
    """Which layers of these others change too: LoRAs of this node by name, and those of other nodes."""
    layers, applied, loras = layers_of(map(weight_of, patches)), applied_to(model), loras_on(model)
    ours = [item for lora in loras for item in lora.patches.items()]
    stock = patched_weights(model, [*ours, *(applied.patches if applied else ())])
    others = [(lora.name, lora.weights) for lora in loras] + [("LoRAs of other nodes", stock)]
    told = []
    for name, weights in others:
        if shared := sorted(layers & layers_of(weights)):
            count = f"{len(shared)} layer{'s' if len(shared) > 1 else ''}"
            told.append(f"{count} shared with {name} ({shortened(shared, 2)})")
    return "".join(f"; {each}" for each in told)


def layers_of(weights: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[0] if is_of_layer(name) else name for name in weights}


def order_matters(model: ModelPatcher, patches: WeightPatches) -> list[str]:
    """A warning where a LoRA looks at weights that hold the semantic expert by now."""
    applied = applied_to(model)
    by_expert = {weight_of(key) for key, _ in applied.patches} if applied else set()
    looking = [weight_of(key) for key, patch in patches.items() if not is_additive(patch)]
    if not by_expert.intersection(looking):
        return []
    return [
        "this LoRA measures or replaces weights (DoRA, for one), and here they hold the semantic expert: put DCM LoRA "
        "before DCM Apply Experts, with the same strength for both, if it was trained on the backbone."
    ]


def patched_since(model: ModelPatcher) -> list[str]:
    """A warning where a LoRA with different strengths meets weights that nodes behind it have changed: it acts last."""
    warnings = []
    for lora in loras_on(model):
        now = numbers_of_patches(model)
        changed = sorted(each for each in lora.measured if now.get(each, 0) > lora.below.get(each, 0))
        if lora.beside and changed:
            warnings.append(
                f"{lora.name} measures or replaces weights, with different strengths after all others have changed "
                f"them, and nodes behind it do ({shortened(changed, 2)}): give both of its strengths the same value."
            )
    return warnings


def whole_at_any_strength(patches: WeightPatches, strengths: Strengths) -> list[str]:
    """A warning where new weights are put in with a strength that ComfyUI takes no notice of."""
    new = [weight_of(key) for key, patch in patches.items() if kind_of(patch) == "set"]
    if not new or {*strengths.values()} <= {0.0, 1.0}:
        return []
    return [f"{shortened(new, 3)}: new weights, which ComfyUI puts in whole at any strength but 0: use 0 or 1."]
