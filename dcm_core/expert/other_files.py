"""What a file is that is no expert, from its names: so that an error can say where it belongs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..errors import shortened
from ..families.presets import FAMILIES

_LORA = "Load it with a LoRA loader (LoraLoaderModelOnly)."
_BACKBONE = "Put it into models/diffusion_models and open it with DCM Load Backbone."
_VAE = "a VAE", "Put it into models/vae and load it with Load VAE."
_TEXT = "a text encoder", "Put it into models/text_encoders and load it with Load CLIP."
_VISION = "a CLIP vision model", "Put it into models/clip_vision and load it with Load CLIP Vision."
_OTHER = "a backbone of another family", "Load it with Load Diffusion Model: DCM has no experts for it."

# Pieces of names that occur in this kind of file only, or in one that stands further down: what it is, and the remedy.
_SIGNS: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    (
        ("exp_avg", "optimizer."),
        ("a training checkpoint", "Take the expert file that was exported from it."),
    ),
    (
        (".lokr_", ".hada_", ".oft_blocks", ".oft_diag", ".glora_", ".boft_"),
        ("a LoKr, or another adapter of the LyCORIS kinds", _LORA),
    ),
    (
        (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up.", "lora_unet_"),
        ("an ordinary LoRA", _LORA),
    ),
    ((".diff_b", ".set_weight", ".fused_down"), ("an ordinary LoRA", _LORA)),
    (
        ("first_stage_model.", "cond_stage_model.", "text_encoders."),
        ("an all-in-one checkpoint", "Put it into models/checkpoints and load it with Load Checkpoint."),
    ),
)
_FURTHER_SIGNS: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    (
        ("vace_blocks.", "vace_patch_embedding."),
        (
            "a VACE module, a part of a backbone",
            "Take a whole VACE model for models/diffusion_models, and open it with DCM Load Backbone.",
        ),
    ),
    (("controlnet_blocks.", "controlnet_"), ("a ControlNet", "Put it into models/controlnet.")),
    (("decoder.conv_in.", "decoder.conv1.", "decoder.middle.", "decoder.upsamples.", "decoder.up_blocks."), _VAE),
    (("encoder.block.", "text_model.encoder.layers.", "model.layers.", ".ffn.gate."), _TEXT),
    (("vision_model.encoder.", "visual.transformer.", "visual.blocks."), _VISION),
    (("input_blocks.", "joint_blocks.", "double_blocks.", "transformer_blocks."), _OTHER),
)


def what_it_is(names: Collection[str], metadata: Mapping[str, str]) -> str:
    """What a file with these names is, where it belongs, and what opens it."""
    if not names:
        return "a file without a tensor. Download or export it again."
    if {"state", "version"} <= metadata.keys():  # as this project's trainer writes them
        return "a training checkpoint. Take the expert file that was exported from it."
    if sign := _sign(names, _SIGNS):
        return sign
    if is_backbone(names):
        return f"a whole backbone. {_BACKBONE}"
    return _sign(names, _FURTHER_SIGNS) or (
        f"no file that is known here: its tensors are {shortened(names, 3)}. Choose an expert file, whose metadata "
        "says that it is one."
    )


def is_backbone(names: Collection[str]) -> bool:
    """Are these the names of a network that there are experts for, in any layout and under any prefix?"""
    rows = [family.keymap.recognised_by for family in FAMILIES.values()]
    marks = {mark for row in rows for mark in (row.comfy, *row.sources)}
    endings = tuple(f".{mark}" for mark in marks)
    return any(name in marks or name.endswith(endings) for name in names)


def semantic_backbone(names: Collection[str], metadata: Mapping[str, str]) -> str:
    """What to say of a whole backbone's file that has metadata of this project; nothing for any other."""
    what = "a semantic expert as a whole backbone" if "dcm.expert" in metadata else "a whole backbone"
    return f"{what}. {_BACKBONE}" if is_backbone(names) else ""


def _sign(names: Collection[str], signs: tuple[tuple[tuple[str, ...], tuple[str, str]], ...]) -> str:
    for pieces, (what, remedy) in signs:
        if any(piece in name for name in names for piece in pieces):
            return f"{what}. {remedy}"
    return ""
