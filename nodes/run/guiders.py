"""The guider of a run."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from ..backbone.model import family_of
from ..experts.apply import applied_to
from .expert_guider import ExpertGuider
from .pair_guider import PairGuider
from .plan import Run


def guider_for(run: Run, positive: list, negative: list) -> ExpertGuider:
    """The guider of a run, with its CONDITIONING set."""
    if run.low_noise_model is None:
        guider = ExpertGuider(run.model, run.schedule, run.cfg, run.detail_cfg)
        members = [guider]
    else:
        guider = PairGuider(run.model, run.low_noise_model, run.schedule, run.cfg, run.detail_cfg)
        members = [guider, guider.low]
    for member in members:
        member.set_conds(*(guided_conditioning(member.model_patcher, texts) for texts in (positive, negative)))
    return guider


def guided_conditioning(model: ModelPatcher, conditioning: list) -> list:
    """The CONDITIONING with the embedded guidance that the experts were trained under, where the network takes one.

    A guidance that a node such as FluxGuidance has set stays.
    """
    applied = applied_to(model)
    told = applied.metadata.embedded_guidance if applied else None
    if told is None or not family_of(model).embedded_guidance:
        return conditioning
    return [[text, {"guidance": told, **options}] for text, options in conditioning]
