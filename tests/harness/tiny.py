"""Tiny random backbones and experts for the host, written with the host's own model classes.

    <host python> -m harness.tiny MODELS_FOLDER

prints one JSON line: what each file is -> its name in diffusion_models/ or dcm/.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

from . import in_host

in_host.prepare()

import comfy.ops  # noqa: E402  (the host reads its options while it is imported)
import torch  # noqa: E402
from comfy.ldm.hunyuan_video.model import HunyuanVideo, HunyuanVideoParams  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from .random_weights import randomise  # noqa: E402

RANK = 4
# What the published detail experts change: low-rank attention, and these layers whole.
ATTENTION = {
    "wan": (".self_attn.", ".cross_attn."),
    "hunyuan_video": ("_attn.qkv", "_attn.proj", ".linear1", ".linear2", ".self_attn.qkv", ".self_attn.proj"),
    "cogvideox": (".q.", ".k.", ".v.", ".attn_out."),
}
REPLACED = {
    "wan": ("time_embedding.", "time_projection."),
    "hunyuan_video": ("time_in.", "vector_in.", "guidance_in.", "final_layer.adaLN_modulation."),
    "cogvideox": ("time_embedding_linear_", "norm_out.linear.", "proj_out."),
}


def wan(dim: int = 128, blocks: int = 2, in_dim: int = 16, ffn: int = 0, device: str = "cpu") -> nn.Module:
    """A Wan text-to-video network (with 36 input channels, Wan 2.2's for images); the host detects dim // 128 heads."""
    sizes = {"dim": dim, "ffn_dim": ffn or 2 * dim, "num_heads": dim // 128, "num_layers": blocks, "in_dim": in_dim}
    return WanModel(**sizes, dtype=torch.float32, device=device, operations=comfy.ops.disable_weight_init)


def wan_i2v(dim: int = 128, blocks: int = 2) -> nn.Module:
    """A Wan 2.1 image-to-video network: it takes a picture as further channels, and as what CLIP vision sees in it."""
    sizes = {"dim": dim, "ffn_dim": 2 * dim, "num_heads": dim // 128, "num_layers": blocks, "in_dim": 36}
    made = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    return WanModel(model_type="i2v", **sizes, **made)


def hunyuan_video(
    context: int = 256, width: int = 128, double: int = 1, single: int = 2, device: str = "cpu"
) -> nn.Module:
    """A HunyuanVideo network of so many double and single blocks, for text vectors of `context` channels."""
    sizes = {
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": 768,
        "context_in_dim": context,
        "hidden_size": width,
        "mlp_ratio": 4.0,
        "num_heads": width // 128,
        "depth": double,
        "depth_single_blocks": single,
        "axes_dim": [16, 56, 56],
        "theta": 256,
        "patch_size": [1, 2, 2],
        "qkv_bias": True,
        "guidance_embed": True,
    }
    for field in dataclasses.fields(HunyuanVideoParams):  # parts of later versions of the model stay off
        sizes.setdefault(field.name, False if field.type in (bool, "bool") else None)
    return HunyuanVideo(**sizes, dtype=torch.float32, device=device, operations=comfy.ops.disable_weight_init)


def cogvideox(heads: int = 2, blocks: int = 2, context: int = 256, time: int = 64, device: str = "cpu") -> nn.Module:
    """A CogVideoX text-to-video network of the 5B kind; only hosts from 0.20 on have the class."""
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

    sizes = {"num_attention_heads": heads, "num_layers": blocks, "text_embed_dim": context, "time_embed_dim": time}
    return CogVideoXTransformer3DModel(
        **sizes,
        use_rotary_positional_embeddings=True,
        dtype=torch.float32,
        device=device,
        operations=comfy.ops.disable_weight_init,
    )


FAMILIES = {"wan": wan, "hunyuan_video": hunyuan_video}
if importlib.util.find_spec("comfy.ldm.cogvideo"):
    FAMILIES["cogvideox"] = cogvideox


def random_expert(network: nn.Module, family: str, kind: str, seed: int, strength: float = 0.3):
    """An expert over `network`: low-rank attention, whole differences of the time layers."""
    from dcm_pack.dcm_core.expert.layers import Difference, Expert, LowRank
    from dcm_pack.dcm_core.expert.metadata import ExpertMetadata
    from dcm_pack.dcm_core.families.presets import FAMILIES

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * strength / shape[-1] ** 0.5

    layers = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        rows, columns = module.weight.shape
        if f"{name}.".startswith(REPLACED[family]):
            layers[name] = Difference(normal(rows, columns), normal(rows))
        elif any(part in f"{name}." for part in ATTENTION[family]):
            layers[name] = LowRank(normal(RANK, columns), normal(rows, RANK) / strength, float(RANK))
    schedule = FAMILIES[family].schedule
    names = {"expert": kind, "family": family, "backbone": f"tiny_{family}", "schedule": schedule}
    return Expert(ExpertMetadata(**names, guidance=6.0, rank=RANK, alpha=float(RANK)), layers)


def write_all(models: Path) -> dict[str, str]:
    in_host.load_pack()
    from dcm_pack.dcm_core.expert.file import save_expert

    names = {}
    for seed, (name, make) in enumerate((FAMILIES | {"wan_i2v": wan_i2v}).items()):
        network = randomise(make(), seed)
        names[name] = f"tiny_{name}.safetensors"
        folder = models / "diffusion_models"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), folder / names[name])
        for number, kind in enumerate(("semantic", "detail")):
            names[f"{name}_{kind}"] = f"tiny_{name}_{kind}.safetensors"
            (models / "dcm").mkdir(exist_ok=True)
            expert = random_expert(network, name.removesuffix("_i2v"), kind, seed=10 * seed + number)
            save_expert(models / "dcm" / names[f"{name}_{kind}"], expert)
    return names


if __name__ == "__main__":
    print(json.dumps(write_all(Path(sys.argv[1]))))
