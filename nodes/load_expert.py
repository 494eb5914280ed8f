"""DCMLoadExpert: an expert file to a DCM_EXPERT."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dcm_core.expert.file import load_expert
from ..dcm_core.schedule.experts import steps_text
from .ui import inputs
from .ui.folders import expert_names, expert_path, state_of
from .ui.say import say
from .ui.schema import DcmExpert, found_by


class DCMLoadExpert(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMLoadExpert",
            display_name="DCM Load Expert",
            category="DCM",
            description="Loads a semantic or a detail expert. The file says itself which it is and how to sample it.",
            inputs=[
                inputs.expert_name(expert_names()),
            ],
            outputs=[DcmExpert.Output(display_name="expert", tooltip="For DCM Apply Experts.")],
            hidden=[io.Hidden.unique_id],
        )
        return found_by(schema, "dcm lora", "load lora", "semantic expert", "detail expert")

    @classmethod
    def fingerprint_inputs(cls, expert_name: str) -> str:
        """Run again when the file was written again: while training, one name is exported many times."""
        return state_of(expert_path(expert_name))

    @classmethod
    def execute(cls, expert_name: str) -> io.NodeOutput:
        expert = load_expert(expert_path(expert_name))
        made = expert.metadata
        backbone = f"{made.backbone} ({made.family})" if made.backbone else made.family
        trained = f", trained for {steps_text(made.trained_steps)}" if made.trained_steps else ""
        switch = made.schedule.describe_switch(made.trained_steps)
        stamp = f"; by its passport {made.passport.settings}" if made.passport and made.passport.settings else ""
        say(cls, f"{expert_name}: {made.expert} expert for {backbone}{trained}; {switch}{stamp}")
        return io.NodeOutput(expert)
