"""Do these experts fit this MODEL and each other? Errors before anything is patched, doubts as warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from comfy.model_patcher import ModelPatcher

from ...dcm_core.errors import shortened
from ...dcm_core.expert.check import check
from ...dcm_core.expert.fingerprint import logical_shapes
from ...dcm_core.expert.layers import Expert
from ..backbone.host import network_of, patched_weights
from ..backbone.model import family_of, is_semantic, norms_of
from .apply import applied_to

Value = TypeVar("Value")


def check_experts(model: ModelPatcher, detail: Expert | None, semantic: Expert | None) -> list[str]:
    """What is doubtful about this combination, one sentence each.

    Raises ExpertFileError with every missing, unexpected or wrongly shaped tensor, and ValueError for an expert at the
    wrong input, for two over one MODEL that belong over the two of a pair, and for none at all.
    """
    for expert, kind in ((detail, "detail"), (semantic, "semantic")):
        if expert is not None and expert.metadata.expert != kind:
            raise ValueError(
                f"A {expert.metadata.expert} expert is connected to {kind}_expert: connect it to "
                f"{expert.metadata.expert}_expert, and a {kind} expert here."
            )
    require_company(detail, semantic)
    shapes = without_adapters(logical_shapes(network_of(model)))
    backbone = shapes, without_adapters(norms_of(model)), family_of(model).name
    warnings: list[str] = []
    for expert, below in ((detail, semantic), (semantic, None)):
        if expert is not None:
            report = check(expert, *backbone, semantic=below.metadata if below else None)
            report.raise_if_wrong()
            warnings += [f"{expert.metadata.expert} expert: {warning}" for warning in report.warnings]
            warnings += lost_patches(model, expert)
    if semantic is not None:
        if is_semantic(model):
            warnings.append("this MODEL is a semantic expert itself, and another is laid over it: disconnect one.")
        if detail is not None:
            warnings += unlike(detail, semantic)
    elif detail is not None and not detail.metadata.pair and not is_semantic(model):
        warnings.append(
            "no semantic expert is connected: the MODEL itself takes the steps above the switch, which is right "
            "only if it was loaded from a semantic backbone."
        )
    return warnings


def require_company(detail: Expert | None, semantic: Expert | None) -> None:
    """Raises ValueError for experts of a pair over one MODEL, and for a MODEL without the detail expert it needs."""
    of_pair = any(expert is not None and expert.metadata.pair for expert in (detail, semantic))
    if of_pair and detail is not None and semantic is not None:
        raise ValueError(
            "These experts were trained over the two MODELs of a pair: give each a DCM Apply Experts of its own, the "
            "high-noise MODEL with semantic_expert alone and the low-noise one with detail_expert alone."
        )
    if detail is None and not of_pair:
        raise ValueError(
            "The file in DCM Load Backbone holds no detail expert: connect one from DCM Load Expert to detail_expert."
        )


def unlike(detail: Expert, semantic: Expert) -> list[str]:
    """What the two were not trained alike in."""
    warnings: list[str] = []
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


def lost_patches(model: ModelPatcher, expert: Expert) -> list[str]:
    """A warning where the expert puts new weights in the place of some that patches of others (LoRAs) change."""
    patched = foreign_patches(model)
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
    """The weights of the network that carry patches of others than the MODEL's experts: those of LoRAs."""
    applied = applied_to(model)
    return patched_weights(model, applied.patches if applied else ())


def without_adapters(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors of the backbone alone: VACE adds blocks to a frozen Wan, whose experts fit as ever."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("vace_")}
