"""What a run is going to do, and what is worth saying about it beforehand."""

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..dcm_core.schedule import ExpertSchedule, check_sigmas
from .backbones import family_of
from .experts import Applied, applied_to

# One network call a step and no memory of former steps; the host's ddim is euler.
USUAL_SAMPLERS = ("euler", "lcm", "ddim")


def whole_run(
    schedule: ExpertSchedule, given: Tensor | None, steps: int, semantic_steps: int, denoise: float
) -> Tensor:
    """The noise levels [N + 1] of the whole run: the given ones, or else the schedule's.

    `semantic_steps` 0 shares the steps evenly. Raises ValueError for what no sampler can run on.
    """
    if given is not None:
        return check_sigmas(given)
    return schedule.sigmas(steps, semantic_steps or None, denoise)


def guided_conditioning(model: ModelPatcher, conditioning: list) -> list:
    """The CONDITIONING with the embedded guidance that HunyuanVideo's experts were trained under.

    A guidance that a node such as FluxGuidance has set stays. Wan takes none.
    """
    applied = applied_to(model)
    if applied is None or family_of(model) != "hunyuan_video":
        return conditioning
    return [[text, {"guidance": applied.guidance, **options}] for text, options in conditioning]


def warnings_for(
    applied: Applied | None, schedule: ExpertSchedule, sigmas: Tensor, sampler_name: str
) -> list[str]:
    """One sentence for each thing about a run down `sigmas` [N + 1] that the user may not have meant."""
    warnings = []
    semantic, detail = schedule.split(sigmas)
    switch = f"the switch is at sigma {schedule.switch_sigma:.4f}"
    if applied is None:
        warnings.append(
            "this MODEL has no detail expert, so the plain one takes all steps: put DCM Apply Experts before this node."
        )
    elif not detail:
        warnings.append(f"no step is the detail expert's ({switch}): give it some, or details stay rough.")
    elif not semantic:
        warnings.append(
            f"no step is the semantic expert's ({switch}): layout and motion stay those of the latent."
        )
    if sampler_name not in USUAL_SAMPLERS:
        warnings.append(
            f"{sampler_name} is unusual for few-step experts: it mixes calls of different noise levels, also "
            "across the switch, where the experts differ. euler is what they were trained for."
        )
    return warnings
