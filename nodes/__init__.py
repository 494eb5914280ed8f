"""The ComfyUI nodes. Everything that imports the host is in this package."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from .apply_experts import DCMApplyExperts
from .attention import DCMAttention
from .bake import DCMBake
from .guider import DCMGuider
from .ksampler import DCMKSampler
from .load_backbone import DCMLoadBackbone
from .load_expert import DCMLoadExpert
from .lora import DCMLora
from .motion import DCMMotion
from .shapes import DCMShapes
from .sigmas import DCMSigmas
from .ui import folders


class DCMExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        folders.register()  # not in on_load, which 0.3.64 does not call
        return [
            DCMLoadBackbone,
            DCMLoadExpert,
            DCMApplyExperts,
            DCMBake,
            DCMSigmas,
            DCMKSampler,
            DCMGuider,
            DCMMotion,
            DCMShapes,
            DCMAttention,
            DCMLora,
        ]
