"""DCMKSampler: one sample() call over both experts, everything but the prompt taken from the experts' metadata."""

import comfy.samplers
from comfy_api.latest import io

from ..dcm_core.schedule import step_window
from .experts import applied_to, schedule_of
from .inputs import semantic_steps_input, steps_input
from .run_plan import guided_conditioning, warnings_for, whole_run
from .sampling import ExpertGuider, sample
from .say import say


class DCMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DCMKSampler",
            display_name="DCM KSampler",
            category="DCM",
            description="Samples with both experts in one run. Noise levels and switch come from the expert files.",
            inputs=[
                io.Model.Input("model", tooltip="From DCM Apply Experts."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The seed of the noise.",
                ),
                steps_input(),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Leave it at 1: the experts carry their guidance. Another value doubles the time.",
                ),
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
                io.Float.Input(
                    "detail_cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="The cfg of the detail expert's steps; 0 means the same as cfg.",
                ),
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
    ) -> io.NodeOutput:
        schedule = schedule_of(model)
        whole = whole_run(schedule, sigmas, steps, semantic_steps, denoise)
        part = step_window(whole, start_at_step, end_at_step)
        info = say(
            cls, schedule.describe(part), warnings_for(applied_to(model), schedule, whole, sampler_name)
        )
        guider = ExpertGuider(model, schedule, cfg, detail_cfg or cfg)
        guider.set_conds(*(guided_conditioning(model, texts) for texts in (positive, negative)))
        return io.NodeOutput(sample(guider, sampler_name, part, latent_image, seed, add_noise), info)
