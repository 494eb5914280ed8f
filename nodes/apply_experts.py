"""DCMApplyExperts: MODEL and experts to a MODEL that switches between them while it is sampled."""

from __future__ import annotations

from comfy_api.latest import io

from .experts.apply import applied_to, apply_experts, switch_text
from .experts.bf16_timestep import round_timesteps
from .experts.check import check_experts
from .run.stock_runs import note_stock_runs
from .ui.say import say
from .ui.types import DcmExpert


class DCMApplyExperts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DCMApplyExperts",
            display_name="DCM Apply Experts",
            category="DCM",
            description="Lets the semantic expert act above the switch and the detail expert from there down. "
            "The result is an ordinary MODEL: LoRAs, shift nodes and every sampler work before and after it.",
            inputs=[
                io.Model.Input("model", tooltip="The backbone. Experts it has already are replaced."),
                DcmExpert.Input(
                    "detail_expert",
                    tooltip="Acts in the steps at low noise, where texture and detail are made.",
                ),
                DcmExpert.Input(
                    "semantic_expert",
                    optional=True,
                    tooltip="Acts in the steps at high noise, where layout and motion are made. Leave it open "
                    "if the MODEL is a whole semantic backbone.",
                ),
                io.Float.Input(
                    "detail_strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    tooltip="1 is what the expert was trained for.",
                ),
                io.Float.Input(
                    "semantic_strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    tooltip="1 is what the expert was trained for.",
                ),
                io.Float.Input(
                    "kappa",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.0001,
                    optional=True,
                    tooltip="0 keeps the boundary the detail expert was trained with. Another value is a noise level "
                    "in 0..1 (sigma, for CogVideoX the timestep / 1000); the nearest grid point is taken.",
                ),
                io.Boolean.Input(
                    "bf16_timestep",
                    default=False,
                    optional=True,
                    tooltip="Tells the network timesteps rounded to bfloat16 (980 for 981.8), as the published "
                    "HunyuanVideo run did. For comparisons with it.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The backbone with both experts."),
                io.String.Output(
                    display_name="info", tooltip="Which expert acts where, and warnings if there are any."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        detail_expert,
        semantic_expert=None,
        detail_strength=1.0,
        semantic_strength=1.0,
        kappa=0.0,
        bf16_timestep=False,
    ) -> io.NodeOutput:
        warnings = check_experts(model, detail_expert, semantic_expert)
        if applied_to(model):
            warnings.append("this MODEL had experts already; they are replaced.")
        schedule = detail_expert.metadata.schedule
        if kappa:
            schedule = schedule.with_kappa(float(kappa))
        model = apply_experts(
            model, schedule, detail_expert, detail_strength, semantic_expert, semantic_strength
        )
        if bf16_timestep:
            round_timesteps(model)
        note_stock_runs(model)
        return io.NodeOutput(model, say(cls, switch_text(schedule), warnings))
