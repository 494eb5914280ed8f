"""DCMKSampler: one sample() call over both experts, everything but the prompt taken from the experts' metadata."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..dcm_core.schedule.sigmas import step_window
from .run.guiders import guider_for
from .run.notes import warnings_for
from .run.plan import Run
from .run.sample import sample
from .ui.inputs import (
    boundary_input,
    cfg_input,
    detail_cfg_input,
    low_noise_model_input,
    semantic_steps_input,
    steps_input,
)
from .ui.say import say


class DCMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DCMKSampler",
            display_name="DCM KSampler",
            category="DCM",
            description="Samples with both experts, or with two MODELs, in one run. Noise levels and switch come from "
            "the expert files.",
            inputs=[
                io.Model.Input("model", tooltip="From DCM Apply Experts, or the high-noise MODEL of a pair."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The seed of the noise.",
                ),
                steps_input(),
                cfg_input(),
                io.Conditioning.Input("positive", tooltip="What the video is to show."),
                io.Conditioning.Input("negative", tooltip="Used only where cfg is not 1."),
                io.Latent.Input(
                    "latent_image", tooltip="An empty latent, or with denoise below 1 the video to change."
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels of your own. They rule over steps, semantic_steps and denoise.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default="euler",
                    optional=True,
                    tooltip="euler is what the experts were trained for; lcm adds fresh noise after every step.",
                ),
                detail_cfg_input(),
                semantic_steps_input(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Below 1 the run starts at a lower noise level and changes the given latent.",
                ),
                io.Int.Input(
                    "start_at_step",
                    default=0,
                    min=0,
                    max=10000,
                    optional=True,
                    tooltip="The first step to run, counted from 0.",
                ),
                io.Int.Input(
                    "end_at_step",
                    default=10000,
                    min=1,
                    max=10000,
                    optional=True,
                    tooltip="The step to stop before. A run that stops early leaves its noise in the latent.",
                ),
                io.Boolean.Input(
                    "add_noise",
                    default=True,
                    optional=True,
                    tooltip="Off for a latent that has its noise already.",
                ),
                low_noise_model_input(),
                boundary_input(),
            ],
            outputs=[
                io.Latent.Output(tooltip="The sampled latent."),
                io.String.Output(
                    display_name="info",
                    tooltip="Which expert took which steps, and warnings if there are any.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

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
        run = Run.of(
            model, low_noise_model, cfg=cfg, detail_cfg=detail_cfg or None, boundary=boundary or None
        )
        whole = run.sigmas(sigmas, steps, semantic_steps or None, denoise)
        part = step_window(whole, start_at_step, end_at_step, run.schedule.grid.sigma_max)
        info = say(cls, run.describe(part), warnings_for(run, whole, sigmas is not None, sampler_name))
        guider = guider_for(run, positive, negative)
        return io.NodeOutput(sample(guider, sampler_name, part, latent_image, seed, add_noise), info)
