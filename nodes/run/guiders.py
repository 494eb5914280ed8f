"""The guider of a run."""

from .pair_guider import PairGuider
from .plan import Run, guided_conditioning
from .sample import ExpertGuider


def guider_for(run: Run, positive: list, negative: list) -> ExpertGuider:
    """The guider of a run, with its CONDITIONING set."""
    if run.is_pair:
        guider = PairGuider(run.model, run.low_noise_model, run.schedule, run.cfg, run.detail_cfg)
        members = (guider, guider.low)
    else:
        guider = ExpertGuider(run.model, run.schedule, run.cfg, run.detail_cfg)
        members = (guider,)
    for member in members:
        member.set_conds(
            *(guided_conditioning(member.model_patcher, texts) for texts in (positive, negative))
        )
    return guider
