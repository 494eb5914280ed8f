"""What a safetensors file is that is no backbone, from its names: so that an error can say what to do with it."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import shortened

# A piece of a name that occurs in this kind of file, and what to say. Adapters come first, since their names
# contain those of their backbone.
_SIGNS = (
    (".lora_A.", "a LoRA or an expert file. Load it with DCM Load Expert or LoraLoaderModelOnly"),
    (".lora_down.", "a LoRA. Load it with LoraLoaderModelOnly"),
    (".lora_up.", "a LoRA. Load it with LoraLoaderModelOnly"),
    (".diff_b", "a LoRA or an expert file. Load it with DCM Load Expert or LoraLoaderModelOnly"),
    (".fused_down", "an expert file. Load it with DCM Load Expert"),
    (".set_weight", "a LoRA or an expert file. Load it with DCM Load Expert or LoraLoaderModelOnly"),
    ("decoder.conv_in.", "a VAE. Load it with Load VAE"),
    ("decoder.conv1.", "a VAE. Load it with Load VAE"),
    ("decoder.middle.", "a VAE. Load it with Load VAE"),
    ("decoder.upsamples.", "a VAE. Load it with Load VAE"),
    ("encoder.block.", "a T5 text encoder. Load it with Load CLIP"),
    ("text_model.encoder.layers.", "a CLIP model. Load it with Load CLIP or Load CLIP Vision"),
    ("visual.transformer.", "a CLIP vision model. Load it with Load CLIP Vision"),
    ("visual.blocks.", "a CLIP vision model. Load it with Load CLIP Vision"),
    ("model.layers.", "a language model as text encoder. Load it with Load CLIP"),
    ("vision_in.", "HunyuanVideo 1.5, another backbone. DCM knows HunyuanVideo (13B)"),
    ("byt5_in.", "HunyuanVideo 1.5, another backbone. DCM knows HunyuanVideo (13B)"),
    ("input_blocks.", "a Stable Diffusion U-Net"),
    ("joint_blocks.", "a Stable Diffusion 3 backbone"),
    ("double_blocks.", "a Flux backbone, or another one of its class"),
    ("transformer_blocks.", "a backbone of another family in diffusers layout"),
)


def what_it_looks_like(names: Iterable[str]) -> str:
    """ "it looks like ..." with a remedy, or the first names of a file that nothing is known about."""
    names = list(names)
    for piece, what in _SIGNS:
        if any(piece in name for name in names):
            return f"it looks like {what}."
    if not names:
        return "it holds no tensor. Download or export it again."
    return f"its tensors are {shortened(names, 3)}. Choose a file of models/diffusion_models."
