"""DCMBake: a MODEL with two experts to two ordinary MODELs, each with one expert in its weights."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .experts.apply import bake, schedule_of, trained_steps_of
from .experts.lora import into_weights
from .ui import inputs
from .ui.say import say
from .ui.schema import found_by


class DCMBake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMBake",
            display_name="DCM Bake",
            category="DCM",
            description="Makes two ordinary MODELs with one expert each merged into the weights: for graphs with two "
            "samplers, for ModelSave, and for loaders and compilers that want plain weights.",
            inputs=[
                inputs.model("The MODEL of DCM Apply Experts."),
            ],
            outputs=[
                io.Model.Output(display_name="semantic", tooltip="For the steps above the switch."),
                io.Model.Output(display_name="detail", tooltip="For the steps from the switch down."),
                io.String.Output(display_name="info", tooltip="Which MODEL is for which steps."),
            ],
            hidden=[io.Hidden.unique_id],
        )
        return found_by(schema, "merge experts", "merge lora", "save model")

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        semantic, detail = bake(model)
        semantic, detail = into_weights(semantic, "semantic"), into_weights(detail, "detail")
        switch = schedule_of(model).describe_switch(trained_steps_of(model))
        return io.NodeOutput(semantic, detail, say(cls, f"two MODELs: {switch}"))
