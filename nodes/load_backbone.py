"""DCMLoadBackbone: a MODEL from models/diffusion_models."""

from comfy_api.latest import io

import nodes

from .backbones import family_of
from .folders import backbone_names, backbone_path
from .layouts import reject_other_layouts

_WEIGHT_DTYPES = nodes.UNETLoader.INPUT_TYPES()["required"]["weight_dtype"][0]


class DCMLoadBackbone(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DCMLoadBackbone",
            display_name="DCM Load Backbone",
            category="DCM",
            description="Loads a Wan or HunyuanVideo backbone and checks that experts can be applied to it.",
            inputs=[
                io.Combo.Input(
                    "backbone_name",
                    options=backbone_names(),
                    tooltip="A backbone in ComfyUI layout, in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=_WEIGHT_DTYPES,
                    default="default",
                    tooltip="How the weights are stored. fp8 halves the memory; the detail expert keeps its precision.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For DCM Apply Experts, or any node that takes a MODEL.")],
        )

    @classmethod
    def execute(cls, backbone_name: str, weight_dtype: str) -> io.NodeOutput:
        reject_other_layouts(backbone_path(backbone_name))
        (model,) = nodes.UNETLoader().load_unet(backbone_name, weight_dtype)
        family_of(model)  # a clear error now, rather than at the experts
        return io.NodeOutput(model)
