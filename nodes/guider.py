"""DCMGuider: both experts, or two MODELs, behind one GUIDER for the stock SamplerCustomAdvanced."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .backbone.lora_files import RunningNode
from .run.guiders import guider_for
from .run.notes import warnings_for
from .run.plan import Run
from .run.speed import asked_files
from .ui import inputs
from .ui.say import say, to_log
from .ui.schema import advanced, found_by, set_by_hand


class DCMGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMGuider",
            display_name="DCM Guider",
            category="DCM",
            description="The guider of DCM KSampler, for SamplerCustomAdvanced, where noise, sampler and noise levels "
            "come from nodes of their own.",
            inputs=[
                inputs.model("From DCM Apply Experts, or the high-noise MODEL of a pair."),
                inputs.positive(),
                inputs.negative(),
                inputs.cfg(),
                advanced(inputs.detail_cfg()),
                inputs.low_noise_model(),
                advanced(inputs.boundary()),
            ],
            outputs=[
                io.Guider.Output(tooltip="For SamplerCustomAdvanced, with the noise levels of DCM Sigmas."),
                io.String.Output(display_name="info", tooltip="Where the switch is."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )
        return found_by(schema, "wan 2.2 two models", "high low noise", "cfg guider", "two cfg")

    @classmethod
    def fingerprint_inputs(cls, **others) -> int:
        """Run again when a LoRA that was asked for its noise levels says others now: stamped, for one."""
        return asked_files.changes()

    @classmethod
    def execute(
        cls, model, positive, negative, cfg=1.0, detail_cfg=0.0, low_noise_model=None, boundary=0.0
    ) -> io.NodeOutput:
        changed = set_by_hand(cls, locals())
        run = Run.of(
            model, low_noise_model, cfg=cfg, detail_cfg=detail_cfg, boundary=boundary, node=RunningNode.of(cls)
        )
        guider = guider_for(run, positive, negative)
        # Only the sampler knows the noise levels, so only then can anything be said about the steps.
        guider.on_run = lambda sigmas: to_log(
            run.describe(sigmas), warnings_for(run, sigmas, given=True, is_stock=True)
        )
        return io.NodeOutput(guider, say(cls, run.switch_text() + changed, in_log=False))
