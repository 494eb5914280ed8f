"""What is worth saying about a run: what the user may not have meant, with its remedy, and what the sampler does."""

from __future__ import annotations

import torch
from torch import Tensor

from ...dcm_core.schedule.experts import ExpertSchedule, PartNames, steps_text
from ...dcm_core.schedule.sigmas import is_part_of
from ..backbone.attention_choice import inexact_of_detail_expert, lost_attention
from ..backbone.host import dtype_of_computation, shift_of
from ..backbone.host_layers import fails_compiled
from ..backbone.model import family_of
from ..experts.apply import applied_to, schedule_of, trained_steps_of
from ..experts.check import loras_out_of_reach, lost_patches
from ..experts.lora import patched_since
from ..ui.say import log
from .plan import PLAIN, Run
from .speed_notes import are_of_speed_lora, of_speed_loras

# One network call a step and no memory of former steps; the host's ddim is euler.
USUAL_SAMPLERS = ("euler", "lcm", "ddim")


def warnings_for(
    run: Run, sigmas: Tensor, given: bool, sampler_name: str | None = None, is_stock: bool = False
) -> list[str]:
    """One sentence for each thing about a run down ``sigmas`` [N + 1] that the user may not have meant.

    ``given``: the noise levels came from another node, and that can be changed. ``is_stock``: a stock sampler node runs
    down them, which has none of its own; a list there that does not go from noise to video is one part of a run, which
    may well be one expert's alone.
    """
    applied, warnings = applied_to(run.model), of_steps(run, sigmas, given, is_stock)
    warnings += [*of_inexact_attention(run), *of_compiled_network(run), *of_other_nodes(run)]
    others = run.low_noise_model and applied_to(run.low_noise_model)
    if applied and others and applied.schedule != others.schedule:
        warnings.append(
            f"the experts of the two MODELs were trained for different schedules (kappa {applied.schedule.kappa_text} "
            f"and {others.schedule.kappa_text}); that of the high-noise one is used. Take two files of one training."
        )
    warnings += of_unlike_pair(run)
    warnings += of_speed_loras(run, sigmas, given, sampler_name, is_stock)
    cfg, told = max(run.cfg, run.detail_cfg), run.speed_lora.passport if run.speed_lora else None
    if applied and applied.metadata.guidance > 1 and cfg > 1 and not (told and told.cfg is not None):
        warnings.append(
            f"cfg is {cfg:g}, but the experts carry a guidance of {applied.metadata.guidance:g} already: that takes "
            "twice the time and burns colours. Set cfg to 1 and detail_cfg to 0."
        )
    if run.has_experts and sampler_name not in (None, *USUAL_SAMPLERS) and not (told and told.samplers):
        warnings.append(
            f"{sampler_name} is unusual for few-step experts: it mixes calls of different noise levels, also "
            "across the switch, where the experts differ. euler is what they were trained for."
        )
    return warnings


def of_other_nodes(run: Run) -> list[str]:
    """Warnings of what other nodes have taken from this pack's on any of the run's MODELs."""
    warnings: list[str] = []
    for model in run.models:
        applied = applied_to(model)
        warnings += lost_attention(model)
        if applied and applied.detail_strength and not applied.baked:
            warnings += lost_patches(model, applied.detail)
        warnings += [*patched_since(model), *loras_out_of_reach(model)]
    return list(dict.fromkeys(warnings))


def of_inexact_attention(run: Run) -> list[str]:
    """A warning where an inexact attention is for the detail expert's steps, on a MODEL that does not know them."""
    for model in run.models:
        name, applied = inexact_of_detail_expert(model), applied_to(model)
        if name and (applied is None or applied.baked or applied.only == "semantic"):
            return [
                f"{name} is for the detail expert's steps, and no detail expert acts on this MODEL: set inexact_in of "
                "DCM Attention to all steps, on the MODEL whose steps are meant."
            ]
    return []


def of_compiled_network(run: Run) -> list[str]:
    """A warning before PyTorch's "mat1 and mat2 must have the same dtype", which names no remedy."""
    for model in run.models:
        if stored := fails_compiled(model):
            computed, flag = dtype_of_computation(model), "bf16" if stored == torch.bfloat16 else "fp16"
            return [
                f"a compiled network fails with Dynamic VRAM where weights are stored in {stored} and computed in "
                f"{computed}, as here: start ComfyUI with --{flag}-unet, or leave TorchCompileModel out."
            ]
    return []


def of_unlike_pair(run: Run) -> list[str]:
    """A warning where the experts of two MODELs were trained for other numbers of steps; those over one are compared
    where they are put on it."""
    trained = [steps for model in run.models if (steps := trained_steps_of(model)) is not None]
    if len(set(trained)) < 2:
        return []
    high, low = (steps_text(steps) for steps in trained)
    return [
        f"the experts of the two MODELs were trained for {high} and {low}; the high-noise one's number is used. Take "
        "two files for one number of steps."
    ]


def of_steps(run: Run, sigmas: Tensor, given: bool, is_stock: bool) -> list[str]:
    """What is wrong with who takes which steps, at which noise levels: the one thing to change first."""
    applied, trained, names = applied_to(run.model), run.trained_sigmas, run.names
    in_one_step = trained is not None and len(trained) == 2  # the semantic expert's alone
    if run.speed_lora and isinstance(names, str) and not run.has_experts:
        return []
    if applied is None and isinstance(names, str) and not in_one_step:
        whole = "the plain one" if names == PLAIN else "its semantic expert"
        return [f"this MODEL has no detail expert, so {whole} takes all steps: put DCM Apply Experts before this node."]
    if applied and applied.only and isinstance(names, str):
        return [
            f"this MODEL holds the {applied.only} expert only, which takes all steps: connect the MODEL with the "
            "semantic expert to model and the one with the detail expert to low_noise_model."
        ]
    if trained is not None and not is_part_of(trained, sigmas):
        return [off_trained(run, trained, given, is_stock)]
    if isinstance(names, str) or in_one_step or (is_stock and not is_whole(run, sigmas)):
        return []
    return starved(run, names, sigmas, given and not are_of_speed_lora(run, sigmas), is_stock)


def off_trained(run: Run, trained: Tensor, given: bool, is_stock: bool) -> str:
    """The warning for other noise levels than the experts were trained for."""
    steps = len(trained) - 1
    if not is_part_of(trained, run.schedule.sigmas(steps)):
        remedy = f"Set {'boundary' if run.schedule != schedule_of(run.model) else 'kappa of DCM Apply Experts'} to 0."
    elif given:
        remedy = f"Connect DCM Sigmas with steps {steps}, semantic_steps 0 and denoise 1{other_than_sigmas(is_stock)}."
    else:
        remedy = f"Set steps to {steps}, semantic_steps to 0 and denoise to 1; to change a video, use start_at_step."
    levels = " ".join(run.schedule.grid.curve.labels(trained[:-1].tolist(), 3))
    return f"the experts were trained for {steps_text(steps)} at {levels}, and these are other noise levels. {remedy}"


def starved(run: Run, names: PartNames, sigmas: Tensor, given: bool, is_stock: bool) -> list[str]:
    """A warning for the expert that has no step, or in a whole run at most half of its share."""
    costs = ("layout and motion stay those of the latent", "details stay rough")
    shares, steps = run.schedule.split(sigmas), len(sigmas) - 1
    remedy = f" {remedy_for(run, is_stock)}" if given else ""
    switch = f"the switch is at {run.schedule.spell(run.schedule.switch_sigma)}"
    for name, share, cost in zip(names.full, shares, costs, strict=True):
        if not share:
            return [f"no step is the {name}'s ({switch}): {cost}.{remedy}"]
    if not given or not is_whole(run, sigmas) or steps > run.schedule.grid.points:
        return []
    if is_made_by(run.schedule, sigmas, shares[0]):
        return []
    due = run.schedule.split(run.schedule.sigmas(steps))
    return [
        f"these noise levels give the {name} {share} of {steps} steps instead of {its_due} ({switch}).{remedy}"
        for name, share, its_due in zip(names.full, shares, due, strict=True)
        if 2 * share <= its_due
    ]


def is_whole(run: Run, sigmas: Tensor) -> bool:
    """From noise to video? Some lists begin at timestep 999 of 1000."""
    return bool(sigmas[0] >= 0.999 * run.schedule.grid.sigma_max - 1e-6 and sigmas[-1] == 0)


def is_made_by(schedule: ExpertSchedule, sigmas: Tensor, semantic_steps: int) -> bool:
    """Are these the schedule's own noise levels for this share, asked for at DCM Sigmas?"""
    try:
        own = schedule.sigmas(len(sigmas) - 1, semantic_steps)
    except ValueError:
        return False
    return bool(((own - sigmas.cpu()).abs() <= 1e-6 * own[0]).all())


def remedy_for(run: Run, is_stock: bool) -> str:
    """How noise levels get right; the shift of the MODEL matters here only, for schedulers take it from there."""
    connect, pair = "Connect DCM Sigmas", family_of(run.model).pair
    if pair and schedule_of(run.model).grid != run.schedule.grid == pair.grid:  # only a preset has such levels
        connect += f" with the preset {pair.preset}"
    remedy = f"{connect}{other_than_sigmas(is_stock)}."
    shift = shift_of(run.model)
    if shift is None or shift == run.schedule.grid.shift:
        return remedy
    return (
        f"{remedy} A scheduler makes them by the shift of the MODEL, which is {shift:g} here, where "
        f"{run.schedule.grid.shift:g} is meant."
    )


def other_than_sigmas(is_stock: bool) -> str:
    """How a remedy that is to connect DCM Sigmas goes on."""
    return " to a sampler node that takes SIGMAS, or use DCM KSampler" if is_stock else ", or leave sigmas open"


class CallWatch:
    """Says once a run if the sampler does not ask the network at one noise level after the other, as euler does."""

    def __init__(self) -> None:
        self.expected: list[float] = []
        self.calls, self.said = 0, False

    def begin(self, sigmas: Tensor) -> None:
        """A run down ``sigmas`` [N + 1]."""
        self.expected, self.calls, self.said = sigmas[:-1].tolist(), 0, False

    def call(self, sigma: Tensor) -> None:
        """A call of the network at this noise level [B]."""
        if self.said:
            return
        level = float(sigma.flatten()[0])
        expected = self.expected[self.calls] if self.calls < len(self.expected) else 0.0
        self.calls += 1
        if abs(level - expected) > 1e-5 * expected:
            self.said = True
            log.info(
                "DCM: this sampler asks the network beside the noise levels of the steps (at sigma %.4f in call %d). "
                "The switch follows the noise level that is asked for, whichever step it belongs to.",
                level,
                self.calls,
            )
