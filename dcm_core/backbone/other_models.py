"""What a safetensors file is that is no backbone, from its names: so that an error can say what to do with it."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import shortened

_CLIP = "Load it with Load CLIP, from models/text_encoders"
_VAE = "Load it with Load VAE, from models/vae"
_EXPERT = "Load it with DCM Load Expert, from models/dcm or models/loras"
_LORA = "Load it with LoraLoaderModelOnly, from models/loras"
_EITHER = "Load it with DCM Load Expert or LoraLoaderModelOnly, from models/loras"
_CHECKPOINT = (
    "a training checkpoint, for the trainer alone. Take the expert or the backbone that the training exported, with "
    "DCM Load Expert or DCM Load Backbone"
)

# Pieces that all occur in the names of this kind of file, and what to say. Adapters come first, since their names
# contain those of their backbone.
_SIGNS = (
    ((".fused_down",), f"an expert file. {_EXPERT}"),
    ((".lora_A.",), f"a LoRA or an expert file. {_EITHER}"),
    ((".diff_b",), f"a LoRA or an expert file. {_EITHER}"),
    ((".set_weight",), f"a LoRA or an expert file. {_EITHER}"),
    ((".lora_down.",), f"a LoRA. {_LORA}"),
    ((".lora_up.",), f"a LoRA. {_LORA}"),
    ((".lokr_",), f"a LoKr, a kind of LoRA. {_LORA}"),
    ((".hada_w",), f"a LoHa, a kind of LoRA. {_LORA}"),
    ((".oft_blocks",), f"an OFT adapter, a kind of LoRA. {_LORA}"),
    (("_flat_param",), "one part of an FSDP checkpoint. Export the whole state dict with what trained it"),
    (("method/",), _CHECKPOINT),  # this project's trainer
    (("exp_avg",), _CHECKPOINT),
    (
        ("vace_blocks.",),
        "the VACE module of Wan without its backbone, for another pack. Take the Wan VACE file that holds both",
    ),
    (("decoder.conv_in.",), f"a VAE. {_VAE}"),
    (("decoder.conv1.",), f"a VAE. {_VAE}"),
    (("decoder.middle.",), f"a VAE. {_VAE}"),
    (("decoder.upsamples.",), f"a VAE. {_VAE}"),
    (("decoder.up_blocks.",), f"a VAE. {_VAE}"),
    (("decoder.up.",), f"a VAE. {_VAE}"),
    (("encoder.block.",), f"a T5 text encoder. {_CLIP}"),
    # As the .pth files of Wan's releases have them.
    (("token_embedding.", "blocks.0.attn.q."), f"a T5 text encoder. {_CLIP}"),
    (("text_model.encoder.layers.",), "a CLIP model. Load it with Load CLIP or Load CLIP Vision"),
    (("vision_model.encoder.layers.",), "a CLIP vision model. Load it with Load CLIP Vision, from models/clip_vision"),
    (("visual.transformer.",), "a CLIP vision model. Load it with Load CLIP Vision, from models/clip_vision"),
    (("visual.blocks.",), "a CLIP vision model. Load it with Load CLIP Vision, from models/clip_vision"),
    (("model.layers.",), f"a language model as text encoder. {_CLIP}"),
    (("vision_in.",), "HunyuanVideo 1.5, another backbone. DCM knows HunyuanVideo (13B)"),
    (("byt5_in.",), "HunyuanVideo 1.5 or HunyuanImage 2.1, other backbones. DCM knows HunyuanVideo (13B)"),
    (("input_blocks.",), "a Stable Diffusion U-Net"),
    (("joint_blocks.",), "a Stable Diffusion 3 backbone"),
    (("double_blocks.",), "a Flux backbone, or another one of its class"),
    (("transformer_blocks.",), "a backbone of another family in diffusers layout"),
)


def is_checkpoint(names: Iterable[str]) -> bool:
    """Are these the names of a state of this project's trainer? They contain those of a backbone."""
    return any(name.startswith("method/") for name in names)


def what_it_looks_like(names: Iterable[str]) -> str:
    """ "it looks like ..." with a remedy, or the first names of a file that nothing is known about."""
    names = list(names)
    for pieces, what in _SIGNS:
        if all(any(piece in name for name in names) for piece in pieces):
            return f"it looks like {what}."
    if not names:
        return "it holds no tensor. Download or export it again."
    return f"its tensors are {shortened(names, 3)}. Choose a file of models/diffusion_models."
