"""DCMApplyExperts: MODEL and experts to a MODEL that switches between them while it is sampled."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .backbone.model import declare_remarked, remarks_on
from .experts.apply import applied_to, apply_experts, trained_steps_of
from .experts.as_published import round_as_published
from .experts.check import check_experts, detail_beside, foreign_patches
from .run.stock_runs import note_stock_runs
from .ui import inputs
from .ui.say import say
from .ui.schema import advanced, found_by, set_by_hand


class DCMApplyExperts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMApplyExperts",
            display_name="DCM Apply Experts",
            category="DCM",
            description="Lets the semantic expert act above the switch and the detail expert from there down. "
            "The result is an ordinary MODEL: LoRAs, shift nodes and every sampler work before and after it. Of "
            "the two MODELs of a pair such as Wan 2.2's each gets its own expert, in a node of its own.",
            inputs=[
                inputs.model("The backbone. Experts it has already are replaced."),
                inputs.semantic_expert(),
                inputs.detail_expert(),
                advanced(inputs.strength("detail_strength")),
                advanced(inputs.strength("semantic_strength")),
                advanced(inputs.kappa()),
                advanced(inputs.bf16_timestep()),
            ],
            outputs=[
                io.Model.Output(tooltip="The backbone with both experts."),
                io.String.Output(
                    display_name="info", tooltip="Which expert acts where, and warnings if there are any."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )
        return found_by(schema, "dual expert", "two experts", "few steps", "4 steps", "apply lora")

    @classmethod
    def execute(
        cls,
        model,
        detail_expert=None,
        semantic_expert=None,
        detail_strength=1.0,
        semantic_strength=1.0,
        kappa=0.0,
        bf16_timestep=False,
    ) -> io.NodeOutput:
        changed = set_by_hand(cls, locals())
        detail_expert = detail_beside(semantic_expert, detail_expert)
        warnings = [*remarks_on(model), *check_experts(model, detail_expert, semantic_expert)]
        patched = len(foreign_patches(model))
        if applied_to(model):
            warnings.append("this MODEL had experts already; they are replaced.")
        schedule = detail_expert.metadata.schedule
        if kappa:
            schedule = schedule.with_kappa(float(kappa))
        model = apply_experts(model, schedule, detail_expert, detail_strength, semantic_expert, semantic_strength)
        if bf16_timestep:
            round_as_published(model)
        declare_remarked(model)
        note_stock_runs(model)
        text = schedule.describe_switch(trained_steps_of(model))
        if patched:
            text += f"; {patched} weights carry LoRA patches"
        return io.NodeOutput(model, say(cls, text + changed, warnings))
