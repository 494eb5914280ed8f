"""DCMSigmas: the noise levels of a run, as SIGMAS, as a line and as a picture."""

from __future__ import annotations

from comfy_api.v0_0_2 import io, ui

from ..dcm_core.families.family import Family
from ..dcm_core.families.presets import find_family
from ..dcm_core.families.presets import preset as family_preset
from ..dcm_core.schedule.experts import EXPERT_NAMES
from ..dcm_core.schedule.pairs import PAIR_NAMES
from ..dcm_core.schedule.plot import plot_schedule
from ..dcm_core.schedule.speed_loras import SPEED_PRESETS, speed_sigmas
from .backbone.lora_files import RunningNode
from .backbone.model import family_of, remarks_on
from .experts.apply import applied_to
from .run.plan import Run, names_of, pair_schedule_of, with_boundary
from .run.speed import asked_files
from .run.speed_notes import are_of_speed_lora
from .ui import inputs
from .ui.say import say
from .ui.schema import advanced, found_by, set_by_hand

_DENOISE = "Below 1 starts at a lower noise level, to change a given video instead of making one."


class DCMSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMSigmas",
            display_name="DCM Sigmas",
            category="DCM",
            description="The noise levels that the experts were trained for, for any sampler that takes SIGMAS. "
            "They do not depend on the shift of the MODEL.",
            inputs=[
                inputs.model("From DCM Apply Experts; a plain backbone gets its family's noise levels."),
                inputs.steps(),
                inputs.preset(["experts", "aligned", "official", *SPEED_PRESETS]),
                advanced(inputs.semantic_steps()),
                advanced(inputs.denoise(_DENOISE)),
            ],
            outputs=[
                io.Sigmas.Output(tooltip="For DCM KSampler, SamplerCustom or SamplerCustomAdvanced."),
                io.String.Output(display_name="info", tooltip="Which expert takes which steps."),
                io.Image.Output(display_name="plot", tooltip="The noise levels over the steps, with the switch."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,  # its plot is shown, whoever takes its noise levels
        )
        searches = ("lightning", "lightx2v", "causvid", "speed lora", "scheduler", "manual sigmas", "high low noise")
        return found_by(schema, *searches)

    @classmethod
    def fingerprint_inputs(cls, **others) -> int:
        """Run again when a LoRA that was asked for its noise levels says others now: stamped, for one."""
        return asked_files.changes()

    @classmethod
    def execute(cls, model, steps, preset="experts", semantic_steps=0, denoise=1.0) -> io.NodeOutput:
        changed = set_by_hand(cls, locals())
        run = Run.of(model, node=RunningNode.of(cls))
        schedule, names, speed = run.schedule, run.names, run.speed_lora
        if preset in SPEED_PRESETS:
            if semantic_steps or denoise != 1:
                raise ValueError(f"{preset} is a list as published: leave semantic_steps at 0 and denoise at 1.")
            require_family_of(preset, family_of(model))
            schedule, names = pair_schedule_of(model), PAIR_NAMES
            sigmas = speed_sigmas(preset, steps)
        elif preset == "experts":
            sigmas = run.sigmas(None, steps, semantic_steps or None, denoise)
            if speed and speed.passport.expert and not run.has_experts:  # of a pair, of which this is one MODEL
                schedule, names = pair_schedule_of(model), PAIR_NAMES
                if boundary := speed.passport.boundary:
                    schedule = with_boundary(schedule, boundary, family_of(model))
        else:
            schedule, names = family_preset(family_of(model).name, preset), names_of(model)
            sigmas = schedule.sigmas(steps or run.usual_steps, semantic_steps or None, denoise)
        if applied := applied_to(model):
            # Who takes which step is up to the MODEL's experts, whatever list they are given.
            schedule, names = applied.schedule, PAIR_NAMES if applied.only else EXPERT_NAMES
        line = schedule.describe(sigmas, names)
        if isinstance(names, str) and not (speed and preset == "experts"):
            # For a graph with a sampler for each part, to cut the list there.
            line += f" (experts would switch after step {schedule.split(sigmas)[0]})"
        warnings = remarks_on(model)
        if preset == "experts" and not run.has_experts:
            line += run.speed.remark(names)
            if speed and not are_of_speed_lora(run, sigmas):
                line += "; these are not its own noise levels"
            warnings += [*run.speed.mistakes, *run.speed.doubts]
        info = say(cls, line + changed, warnings, in_log=False)
        plot = plot_schedule(schedule, sigmas, names=names).unsqueeze(0)
        return io.NodeOutput(sigmas, info, plot, ui=ui.PreviewImage(plot))


def require_family_of(preset: str, family: Family) -> None:
    """Raises ValueError where a speed preset is for backbones of another family."""
    meant = find_family(SPEED_PRESETS[preset].family)
    if family is not meant:
        raise ValueError(f"{preset} is for {meant.title}, and this MODEL is {family.name}: choose another preset.")
