"""DCMAttention: MODEL to MODEL with the fastest exact attention that this machine has, or an inexact one on request."""

from __future__ import annotations

from functools import partial

from comfy_api.v0_0_2 import io

from .backbone.attention import HOST, WAYS
from .backbone.attention_choice import has_gpu, lost_attention, override_of, with_attention
from .backbone.attention_inexact import INEXACT, Inexact, require
from .ui import inputs
from .ui.say import say
from .ui.schema import advanced, found_by, set_by_hand

FASTEST, NEVER = "fastest", "never"
DETAIL, ALL = "detail expert's steps", "all steps"


class DCMAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMAttention",
            display_name="DCM Attention",
            category="DCM",
            description="Times the exact ways of attention that this machine has, once for each size of video, and "
            "takes the fastest. What is computed stays the same, within rounding. Faster and inexact ways on request.",
            inputs=[
                inputs.model("Any MODEL; before or after DCM Apply Experts and torch.compile."),
                inputs.attention([FASTEST, HOST, *WAYS]),
                advanced(inputs.inexact([NEVER, *INEXACT])),
                advanced(inputs.inexact_in([DETAIL, ALL])),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL with this attention."),
                io.String.Output(display_name="info", tooltip="What was done. The log says which way was chosen."),
            ],
            hidden=[io.Hidden.unique_id],
        )
        return found_by(schema, "flash attention", "sdpa", "xformers", "faster")

    @classmethod
    def execute(cls, model, attention: str = FASTEST, inexact: str = NEVER, inexact_in: str = DETAIL) -> io.NodeOutput:
        changed, here, warnings = set_by_hand(cls, locals()), has_gpu(model), []
        if not here:
            text = f"there is no NVIDIA GPU here, so nothing is faster: the MODEL stays as it is{changed}"
        elif attention == HOST and inexact == NEVER:
            text = "the MODEL stays as it is"
        else:
            text = "chosen when a size of video is first sampled, and kept for this GPU"
            if attention != FASTEST:
                text = attention
            if override_of(model):
                took = {FASTEST: "tried as ComfyUI's own", HOST: "kept as ComfyUI's own"}.get(attention, "left out")
                text += f"; what another node has put there is {took}"
            taken = None
            if inexact != NEVER:
                require(inexact)
                taken = Inexact(inexact, inexact_in == ALL, partial(say, cls))
                text += f"; {inexact} in {inexact_in}, measured there"
            model = with_attention(model, None if attention == FASTEST else attention, taken)
            warnings = lost_attention(model)
        return io.NodeOutput(model, say(cls, f"attention: {text}", warnings, in_log=not here))
