"""DCMKSampler: one sample() call over both experts, everything but the prompt taken from the experts' metadata."""

from __future__ import annotations

import comfy.samplers
from comfy_api.v0_0_2 import io

from ..dcm_core.schedule.sigmas import step_window
from .backbone.lora_files import RunningNode
from .run.guiders import guider_for
from .run.notes import warnings_for
from .run.plan import Run
from .run.sample import sample
from .run.speed import asked_files
from .ui import inputs
from .ui.say import say
from .ui.schema import advanced, found_by, set_by_hand


class DCMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMKSampler",
            display_name="DCM KSampler",
            category="DCM",
            description="Samples with both experts, or with two MODELs, in one run. Noise levels and switch come from "
            "the expert files.",
            inputs=[
                inputs.model("From DCM Apply Experts, or the high-noise MODEL of a pair."),
                inputs.seed(),
                inputs.steps(),
                advanced(inputs.cfg()),
                inputs.positive(),
                inputs.negative(),
                inputs.latent_image(),
                inputs.sigmas(),
                advanced(inputs.sampler_name(comfy.samplers.SAMPLER_NAMES)),
                advanced(inputs.detail_cfg()),
                advanced(inputs.semantic_steps()),
                advanced(inputs.denoise("Below 1 the run starts at a lower noise level and changes the given latent.")),
                advanced(inputs.start_at_step()),
                advanced(inputs.end_at_step()),
                advanced(inputs.add_noise()),
                inputs.low_noise_model(),
                advanced(inputs.boundary()),
            ],
            outputs=[
                io.Latent.Output(tooltip="The sampled latent."),
                io.String.Output(
                    display_name="info",
                    tooltip="Which expert took which steps, and warnings if there are any.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )
        searches = ("wan 2.2 two models", "high low noise", "lightning", "speed lora", "few steps", "ksampler advanced")
        return found_by(schema, *searches)

    @classmethod
    def fingerprint_inputs(cls, **others) -> int:
        """Run again when a LoRA that was asked for its noise levels says others now: stamped, for one."""
        return asked_files.changes()

    @classmethod
    def execute(
        cls,
        model,
        seed,
        steps,
        cfg,
        positive,
        negative,
        latent_image,
        sigmas=None,
        sampler_name="euler",
        detail_cfg=0.0,
        semantic_steps=0,
        denoise=1.0,
        start_at_step=0,
        end_at_step=10000,
        add_noise=True,
        low_noise_model=None,
        boundary=0.0,
    ) -> io.NodeOutput:
        changed = set_by_hand(cls, locals())
        run = Run.of(
            model, low_noise_model, cfg=cfg, detail_cfg=detail_cfg, boundary=boundary, node=RunningNode.of(cls)
        )
        whole = run.sigmas(sigmas, steps, semantic_steps or None, denoise)
        part = step_window(whole, start_at_step, end_at_step, run.schedule.grid.sigma_max)
        warnings = warnings_for(run, whole, sigmas is not None, sampler_name)
        info = say(cls, run.describe(part) + changed, warnings)
        guider = guider_for(run, positive, negative)
        return io.NodeOutput(sample(guider, sampler_name, part, latent_image, seed, add_noise), info)
