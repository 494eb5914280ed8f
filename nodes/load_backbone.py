"""DCMLoadBackbone: a MODEL from models/diffusion_models, whatever its layout, with the expert that came in its file."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .backbone.host import WEIGHT_DTYPES
from .backbone.load import load_backbone
from .ui import inputs
from .ui.folders import backbone_files, backbone_names, backbone_path, state_of
from .ui.say import say
from .ui.schema import DcmExpert, advanced, found_by, set_by_hand


class DCMLoadBackbone(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMLoadBackbone",
            display_name="DCM Load Backbone",
            category="DCM",
            description="Loads a backbone in any layout: a ComfyUI file, a diffusers file or folder, or a DCM bundle "
            "as released, which holds both experts.",
            inputs=[
                inputs.backbone_name(backbone_names()),
                advanced(inputs.weight_dtype(list(WEIGHT_DTYPES))),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="For DCM Apply Experts, or any node that takes a MODEL. Of a released bundle, the semantic "
                    "expert."
                ),
                DcmExpert.Output(
                    display_name="expert",
                    tooltip="The detail expert of a released bundle, for DCM Apply Experts. Other files hold none: "
                    "take it from DCM Load Expert.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )
        searches = ("load diffusion model", "unet loader", "wan 2.1", "wan 2.2", "hunyuan video", "cogvideox")
        return found_by(schema, *searches)

    @classmethod
    def fingerprint_inputs(cls, backbone_name: str, **others) -> str:
        """Run again when one of its files was written again: converted with other options, for one."""
        return state_of(*backbone_files(backbone_name))

    @classmethod
    def execute(cls, backbone_name: str, weight_dtype: str) -> io.NodeOutput:
        changed = set_by_hand(cls, locals())
        backbone = load_backbone(backbone_path(backbone_name), weight_dtype)
        detail = backbone.expert
        switch = detail.metadata.schedule.describe_switch() if detail else "no detail expert in it"
        say(cls, f"{backbone_name}: {backbone.description}; {switch}{changed}", backbone.warnings)
        return io.NodeOutput(backbone.model, backbone.expert)
