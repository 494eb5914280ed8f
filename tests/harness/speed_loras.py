"""In the host's process: tiny LoRAs that are called or stamped as known speed LoRAs, behind loaders and without."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from safetensors.torch import save_file

import nodes

from .worlds import dcm_node, empty_latent

HIGH, LOW = (f"Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_{side}_fp16.safetensors" for side in ("HIGH", "LOW"))
LIGHTX2V, RCM = "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors", "Wan_2_1_T2V_14B_480p_rCM_lora.safetensors"
KNOWN = [
    ("wan", HIGH, "wan2.2 lightning"),
    ("wan", LIGHTX2V, "wan2.1 lightx2v"),
    ("wan", "Wan21_CausVid_14B_T2V_lora_rank32_v2.safetensors", "wan2.1 causvid 14B"),
    ("wan", "Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors", "wan2.1 causvid 1.3B"),
    ("wan", "Wan21_AccVid_T2V_14B_lora_rank32_fp16.safetensors", "wan2.1 accvid"),
    ("wan", "Wan2.1_T2V_14B_FusionX_LoRA.safetensors", "wan2.1 fusionx"),
    ("wan", "FastWan_T2V_14B_480p_lora_rank_128_bf16.safetensors", "fastwan"),
    ("wan", RCM, "wan2.1 rcm"),
    ("wan", "Wan2_1_self_forcing_dmd_1_3B_lora_rank_32_fp16.safetensors", "wan2.1 self-forcing"),
    ("hunyuan_video", "hyvideo_FastVideo_LoRA-fp8.safetensors", "fasthunyuan"),
    ("hunyuan_video", "hunyuan_video_accvid_5_steps_lora_rank16.safetensors", "hunyuan accvid"),
]


def loaded(model, folder, name, metadata=None):
    """The MODEL with a tiny LoRA of this name, by the stock loader."""
    layers = model.model.diffusion_model.named_modules()
    layer, module = next((name, module) for name, module in layers if isinstance(module, torch.nn.Linear))
    noise = torch.Generator().manual_seed(0)
    pair = {
        f"diffusion_model.{layer}.lora_down.weight": torch.randn(2, module.in_features, generator=noise),
        f"diffusion_model.{layer}.lora_up.weight": 0.1 * torch.randn(module.out_features, 2, generator=noise),
    }
    save_file(pair, folder / name, metadata)
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0]


def by_dcm_lora(model, folder, name, metadata=None, semantic=1.0, detail=1.0):
    """(MODEL, info) of DCM LoRA with the same LoRA; the node is in no graph."""
    loaded(model, folder, name, metadata)
    return dcm_node("DCMLora").execute(model, name, semantic, detail)


def graph(*loaders, low=()):
    """The prompt of a sampler, node 9, behind these loaders, the last one next to it; by name, or as their inputs."""
    prompt = {"9": {"class_type": "DCMKSampler", "inputs": {"steps": 0}}}
    for place, inputs in (("model", loaders), ("low_noise_model", low)):
        link = [f"{place} 0", 0]
        for number, own in enumerate(inputs, 1):
            own = own if isinstance(own, dict) else {"lora_name": own, "strength_model": 1.0}
            prompt[f"{place} {number}"] = {"class_type": "LoraLoaderModelOnly", "inputs": {**own, "model": link}}
            link = [f"{place} {number}", 0]
        prompt["9"]["inputs"][place] = link
    return prompt


def running(name, prompt):
    """The node as the host runs it in a graph."""
    return type(name, (dcm_node(name),), {"hidden": SimpleNamespace(unique_id="9", prompt=prompt)})


def run(this, model, prompt, **options):
    """(latents, info) of DCM KSampler at its defaults."""
    options = {"seed": 0, "steps": 0, "cfg": 1.0, **options}
    positional = [options.pop(name) for name in ("seed", "steps", "cfg")]
    texts = this.text(0), this.text(1)
    latent, info = running("DCMKSampler", prompt).execute(model, *positional, *texts, empty_latent(), **options).args
    return latent["samples"], info
