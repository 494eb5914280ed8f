"""Do these experts fit this MODEL and each other? Errors before anything is patched, doubts as warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from comfy.model_patcher import ModelPatcher

from ...dcm_core.errors import shortened
from ...dcm_core.expert.check import check
from ...dcm_core.expert.layers import Expert
from ...dcm_core.schedule.experts import steps_text
from ..backbone.host import patched_weights
from ..backbone.model import family_of, is_semantic, norms_of, shapes_of
from ..backbone.out_of_reach import COMPILE_OTHERWISE, out_of_reach
from .apply import applied_to, both_trained_sigmas
from .lora import loras_on
from .lora_file import weight_of

Value = TypeVar("Value")


def detail_beside(semantic: Expert | None, detail: Expert | None) -> Expert:
    """The detail expert; beside a semantic one that needs none over its MODEL, one that changes nothing.

    Raises ValueError where it is missing, and for two over one MODEL that belong over the two of a pair.
    """
    if semantic is not None and detail is not None and (semantic.metadata.pair or detail.metadata.pair):
        raise ValueError(
            "These experts were trained over the two MODELs of a pair: give each a DCM Apply Experts of its own, the "
            "high-noise MODEL with semantic_expert alone and the low-noise one with detail_expert alone."
        )
    if detail is not None:
        return detail
    if semantic is not None and (semantic.metadata.pair or semantic.metadata.trained_steps == 1):
        return without_effect(semantic)
    raise ValueError(
        "There is no detail expert here: connect one from DCM Load Expert to detail_expert. Of the files that DCM "
        "Load Backbone opens, only released bundles hold one."
    )


def without_effect(semantic: Expert) -> Expert:
    """A detail expert that changes nothing over this semantic expert."""
    made = semantic.metadata
    base = made.fingerprint or made.base_fingerprint
    metadata = replace(made, expert="detail", rank=None, alpha=None, base_fingerprint=base, complete=False)
    return Expert(metadata, {})


def check_experts(model: ModelPatcher, detail: Expert, semantic: Expert | None) -> list[str]:
    """What is doubtful about this combination, one sentence each.

    Raises ExpertFileError with every missing, unexpected or wrongly shaped tensor, and ValueError for an expert at the
    wrong input.
    """
    for expert, kind in ((detail, "detail"), (semantic, "semantic")):
        if expert is not None and expert.metadata.expert != kind:
            raise ValueError(
                f"A {expert.metadata.expert} expert is connected to {kind}_expert: connect it to "
                f"{expert.metadata.expert}_expert, and a {kind} expert here."
            )
    shapes = without_adapters(shapes_of(model))
    backbone = shapes, without_adapters(norms_of(model)), family_of(model).name
    report = check(detail, *backbone, semantic=semantic.metadata if semantic else None)
    report.raise_if_wrong()
    warnings = [f"detail expert: {warning}" for warning in report.warnings]
    warnings += [*lost_patches(model, detail), *(lost_patches(model, semantic) if semantic else ())]
    warnings += unlike_steps(model, detail, semantic)
    if semantic is None:
        if not detail.metadata.pair and not is_semantic(model):
            warnings.append(
                "no semantic expert is connected: the MODEL itself takes the steps above the switch, which is right "
                "only if it was loaded from a semantic backbone."
            )
        return warnings
    if is_semantic(model):
        warnings.append("this MODEL is a semantic expert itself, and another is laid over it: disconnect one.")
    report = check(semantic, *backbone)
    report.raise_if_wrong()
    warnings += [f"semantic expert: {warning}" for warning in report.warnings]
    if semantic.metadata.schedule != detail.metadata.schedule:
        warnings.append(
            f"the experts were trained for different schedules (kappa {semantic.metadata.schedule.kappa_text} and "
            f"{detail.metadata.schedule.kappa_text}); the detail expert's is used."
        )
    told = [expert.metadata.embedded_guidance for expert in (semantic, detail)]
    if told[0] != told[1] and None not in told:
        warnings.append(
            f"the experts were trained under different embedded guidances ({told[0]:g} and {told[1]:g}), and a run has "
            "one; the detail expert's is used. Take two files of one training."
        )
    return warnings


def unlike_steps(model: ModelPatcher, detail: Expert, semantic: Expert | None) -> list[str]:
    """A warning where the two experts, or the MODEL as one of them, were trained for other numbers of steps."""
    above, below = both_trained_sigmas(model, detail, semantic)
    if above is None or below is None or len(above) == len(below):
        return []
    return [
        f"the semantic expert was trained for {steps_text(len(above) - 1)}, the detail expert for "
        f"{steps_text(len(below) - 1)}, which is used. Take two files for one number of steps."
    ]


def require_within_reach(model: ModelPatcher) -> None:
    """Raises ValueError naming weights that the MODEL's experts are to change, where the host would leave that out."""
    applied = applied_to(model)
    if applied and (lost := out_of_reach(model) & {weight_of(key) for key, _ in applied.patches}):
        names, kind = shortened(sorted(lost), 4), applied.baked or "semantic"
        raise ValueError(f"ComfyUI would leave out what the {kind} expert changes in {names}. {COMPILE_OTHERWISE}.")


def loras_out_of_reach(model: ModelPatcher) -> list[str]:
    """A warning where the host will leave out what LoRAs change."""
    lost = patches_of_loras(model) & out_of_reach(model)
    if not lost:
        return []
    return [f"ComfyUI leaves out what LoRAs change in {shortened(sorted(lost), 2)}. {COMPILE_OTHERWISE}."]


def lost_patches(model: ModelPatcher, expert: Expert) -> list[str]:
    """A warning where the expert puts new weights in the place of some that patches of others (LoRAs) change."""
    # Of a semantic expert new weights are patches, on which a LoRA beside the network still acts.
    patched = foreign_patches(model) if expert.metadata.expert == "detail" else patches_of_loras(model)
    replaced = {name: layer for name, layer in expert.layers.items() if layer.replaces}
    lost = [name for name, layer in replaced.items() if any(f"{name}.{key}" in patched for key in layer.tensors)]
    if not lost:
        return []
    kind = expert.metadata.expert
    return [
        f"the {kind} expert has new weights for {shortened(lost)}, so what LoRAs change there is lost while it acts: "
        "use an export with differences (python -m dcm_core.convert export, without --exact)."
    ]


def foreign_patches(model: ModelPatcher) -> set[str]:
    """The weights of the network that others than the MODEL's experts change: LoRAs, beside it too."""
    beside = [lora.weights for lora in loras_on(model) if lora.beside]
    return patches_of_loras(model).union(*beside)


def patches_of_loras(model: ModelPatcher) -> set[str]:
    """The weights of the network that carry patches of others than the MODEL's experts."""
    applied = applied_to(model)
    return patched_weights(model, applied.patches if applied else ())


def without_adapters(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors of the backbone alone: VACE adds blocks to a frozen Wan, whose experts fit as ever."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("vace_")}
