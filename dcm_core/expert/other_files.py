"""What a file is that is no expert, from its names, so that an error can say where it belongs; and which speed LoRA."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from ..errors import ExpertFileError, shortened
from ..families.presets import FAMILIES
from ..files.format import read_header
from ..files.shards import is_safetensors
from ..schedule.speed_loras import SpeedLora, recognise

Signs = tuple[tuple[tuple[str, ...], str], ...]  # pieces of names, one of which occurs in such a file, and what it is

_BACKBONE = "Put it into models/diffusion_models and open it with DCM Load Backbone."
_CLIP = "Put it into models/text_encoders and load it with Load CLIP."
_VISION = "Put it into models/clip_vision and load it with Load CLIP Vision."
_OTHER = "Load it with Load Diffusion Model: DCM has no experts for it."
_CHECKPOINT = "a training checkpoint. Take the expert or the backbone that was exported from it."

_LORA = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up.", "lora_unet_"),
    *(".diff_b", ".set_weight", ".fused_down"),
)

_LYCORIS = (".lokr_", ".hada_", ".oft_blocks", ".oft_diag", ".glora_", ".boft_")

# A piece may also occur in files of a later row or table: the names of an adapter hold those of a backbone.
_OF_TRAINING: Signs = (
    (("exp_avg", "optimizer.", "method/"), _CHECKPOINT),
    (("_flat_param",), "one part of an FSDP checkpoint. Export the whole state dict with what trained it."),
    (
        _LYCORIS,
        "a LoKr, or another adapter of the LyCORIS kinds. Load it with a LoRA loader (LoraLoaderModelOnly).",
    ),
)
_ALL_IN_ONE: Signs = (
    (
        ("first_stage_model.", "cond_stage_model.", "text_encoders."),
        "an all-in-one checkpoint. Put it into models/checkpoints and load it with Load Checkpoint.",
    ),
)
_OF_OTHERS: Signs = (
    (
        ("vace_blocks.", "vace_patch_embedding."),
        "a VACE module, a part of a backbone. Take a whole VACE model for models/diffusion_models, and open it with "
        "DCM Load Backbone.",
    ),
    (("controlnet_blocks.", "controlnet_"), "a ControlNet. Put it into models/controlnet."),
    (
        tuple(f"decoder.{part}." for part in ("conv_in", "conv1", "middle", "upsamples", "up_blocks", "up")),
        "a VAE. Put it into models/vae and load it with Load VAE.",
    ),
    (("text_model.encoder.layers.",), f"a CLIP model. {_CLIP}"),
    # The last two as the .pth files of Wan's releases have them.
    (("encoder.block.", ".ffn.gate.", "token_embedding."), f"a T5 text encoder. {_CLIP}"),
    (("vision_model.encoder.", "visual.transformer.", "visual.blocks."), f"a CLIP vision model. {_VISION}"),
    (("model.layers.",), f"a language model as text encoder. {_CLIP}"),
    (("vision_in.", "byt5_in."), f"HunyuanVideo 1.5 or a kin of it. {_OTHER}"),
    (("input_blocks.",), f"a Stable Diffusion U-Net. {_OTHER}"),
    (("joint_blocks.",), f"a Stable Diffusion 3 backbone. {_OTHER}"),
    (("double_blocks.",), f"a Flux backbone, or another one of its class. {_OTHER}"),
    (("transformer_blocks.",), f"a backbone of another family. {_OTHER}"),
)


def what_it_is(names: Collection[str], metadata: Mapping[str, str], speed: str = "") -> str:
    """What a file is that is no expert, where it belongs, and what opens it; ``speed``: the speed LoRA that it is."""
    if not names:
        return "a file without a tensor. Download or export it again."
    if {"state", "version"} <= metadata.keys():  # as this project's trainer writes them
        return _CHECKPOINT
    lora = "an ordinary LoRA. Load it with DCM LoRA or a LoRA loader (LoraLoaderModelOnly)."
    if speed:
        lora = (
            f"{speed}, a speed LoRA. Load it with DCM LoRA or a LoRA loader (LoraLoaderModelOnly): DCM KSampler and "
            "DCM Sigmas take its noise levels behind that."
        )
    return _known(names, lora, f"a whole backbone. {_BACKBONE}") or (
        f"no file that is known here: its tensors are {shortened(names, 3)}. Choose an expert file, whose metadata "
        "says that it is one."
    )


def what_it_looks_like(names: Collection[str]) -> str:
    """ "it looks like ..." with a remedy, of a file that is no backbone; or the first names of an unknown one."""
    if not names:
        return "it holds no tensor. Download or export it again."
    lora = "a LoRA or an expert file. Load it with DCM Load Expert or LoraLoaderModelOnly, from models/loras."
    if known := _known(names, lora):
        return f"it looks like {known}"
    return f"its tensors are {shortened(names, 3)}. Choose a file of models/diffusion_models."


def speed_lora_of(path: str | os.PathLike) -> SpeedLora | None:
    """The speed LoRA that this file is; None for a file that nothing is known of.

    Of a file that is no safetensors file, only the name is asked. Raises ExpertFileError, naming the file, for a broken
    one, for a passport that no run could follow, and for a name that fits several rows of the table; and OSError.
    """
    path = Path(path)
    header = read_header(path).metadata if is_safetensors(path.name) else {}
    try:
        return recognise(header, f"{path.parent.name}/{path.name}")
    except ValueError as error:
        raise ExpertFileError(f"{path}: {error}") from error


def is_checkpoint(names: Collection[str]) -> bool:
    """Are these the names of a state of this project's trainer? They contain those of a backbone."""
    return any(name.startswith("method/") for name in names)


def is_lora(names: Collection[str]) -> bool:
    """Are these the names of a LoRA, or of another adapter that a LoRA loader takes?"""
    return bool(_sign(names, ((_LORA + _LYCORIS, "a LoRA"),)))


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


def _known(names: Collection[str], lora: str, backbone: str = "") -> str:
    """What a file with these names is; ``lora`` and ``backbone`` are what to say of these."""
    return (
        _sign(names, (*_OF_TRAINING, (_LORA, lora), *_ALL_IN_ONE))
        or (backbone if backbone and is_backbone(names) else "")
        or _sign(names, _OF_OTHERS)
    )


def _sign(names: Collection[str], signs: Signs) -> str:
    for pieces, what in signs:
        if any(piece in name for name in names for piece in pieces):
            return what
    return ""
