"""DCMShapes: the embedded world, so that a first workflow needs no download."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dcm_core.schedule.experts import USUAL_STEPS
from ..dcm_core.shapes import weights
from .backbone.shapes_world import ShapesClip, ShapesVae, empty_latent, expert_pairs, load_pair, load_teacher
from .ui import inputs
from .ui.schema import DcmExpert, found_by


class DCMShapes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMShapes",
            display_name="DCM Shapes World",
            category="DCM",
            description="A complete small text-to-video world that comes with this pack: clips of 16 frames in which a "
            "textured shape moves. Prompts read 'a red striped circle moving left fast'.",
            inputs=[
                inputs.batch_size(),
                inputs.trained_steps(list(expert_pairs()), USUAL_STEPS),
            ],
            outputs=[
                io.Model.Output(tooltip="The teacher: 50 steps with cfg, or few with the experts."),
                DcmExpert.Output(display_name="semantic_expert", tooltip="For DCM Apply Experts."),
                DcmExpert.Output(display_name="detail_expert", tooltip="For DCM Apply Experts."),
                io.Clip.Output(tooltip="Knows the words of the Shapes captions and no others."),
                io.Vae.Output(tooltip="The fixed linear autoencoder of this world."),
                io.Latent.Output(tooltip="Empty, of the size this world is made for."),
            ],
        )
        return found_by(schema, "example", "demo", "first workflow")

    @classmethod
    def execute(cls, batch_size: int, steps: str = str(USUAL_STEPS)) -> io.NodeOutput:
        teacher, experts = load_teacher(str(weights.teacher())), load_pair(int(steps))
        return io.NodeOutput(
            teacher,
            experts["semantic"],
            experts.get("detail"),
            ShapesClip(),
            ShapesVae(),
            empty_latent(batch_size),
        )
