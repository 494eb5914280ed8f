"""DCMLora: a LoRA with a strength for the steps of each expert."""

from __future__ import annotations

from pathlib import Path

from comfy_api.v0_0_2 import io

from ..dcm_core.errors import shortened
from .backbone.model import declare_remarked, remarks_on
from .experts.lora import add_lora, loras_on, order_matters, shared_text, strengths_text, whole_at_any_strength
from .experts.lora_file import read_lora
from .run.speed import speed_text
from .run.stock_runs import note_stock_runs
from .ui import inputs
from .ui.folders import all_lora_names, lora_path, state_of
from .ui.say import say
from .ui.schema import found_by


class DCMLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMLora",
            display_name="DCM LoRA",
            category="DCM",
            description="An ordinary LoRA with a strength for the steps at high noise, where layout and motion are "
            "made, and one for those at low noise, where texture and detail are. With or without experts, before "
            "or after them; several in a row add up.",
            inputs=[
                inputs.model("The backbone, with or without experts and other LoRAs."),
                inputs.lora_name(all_lora_names()),
                inputs.lora_strength("semantic", "high-noise"),
                inputs.lora_strength("detail", "low-noise"),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL with the LoRA."),
                io.String.Output(
                    display_name="info", tooltip="How many keys act, where, and which layers other LoRAs change too."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )
        kinds = ("style lora", "character lora", "lightning", "dora", "lokr")
        return found_by(schema, "lora per step", "high low noise lora", "load lora", *kinds)

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **others) -> str:
        """Run again when the file was written again."""
        return state_of(lora_path(lora_name))

    @classmethod
    def execute(cls, model, lora_name, strength_semantic=1.0, strength_detail=1.0) -> io.NodeOutput:
        strengths = {"semantic": float(strength_semantic), "detail": float(strength_detail)}
        refuse_unreasonable(strengths)
        if not any(strengths.values()):
            return io.NodeOutput(model, say(cls, f"{lora_name}: both strengths are 0, so nothing is changed"))
        warnings, file = remarks_on(model), Path(lora_path(lora_name))
        lora = read_lora(file, model)
        text = f"{lora_name}: {lora.acting} of {lora.acting + len(lora.silent)} keys act"
        if lora.silent:
            text += f", not {shortened(lora.silent, 3)}"
        speed, doubts = speed_text(file)
        text += f"; {strengths_text(model, strengths)}{shared_text(model, lora.patches)}{speed}"
        warnings += [*lora.doubts, *order_matters(model, lora.patches)]
        warnings += [*whole_at_any_strength(lora.patches, strengths), *doubts]
        model = add_lora(model, lora_name, file, lora.patches, strengths)
        declare_remarked(model)
        if any(each.beside for each in loras_on(model)):
            note_stock_runs(model)
        return io.NodeOutput(model, say(cls, text, warnings))


def refuse_unreasonable(strengths) -> None:
    """Raises ValueError for a strength that nobody can mean."""
    for expert, strength in strengths.items():
        if not abs(strength) <= inputs.MOST:  # NaN too
            raise ValueError(
                f"strength_{expert} is {strength:g}: use {-inputs.MOST:g} to {inputs.MOST:g}; at 1 a LoRA acts as it "
                "was trained."
            )
