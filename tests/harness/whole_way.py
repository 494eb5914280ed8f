"""From video files to latents: a tiny backbone's clips prepared, both stages trained, all by the real commands.

What the nodes need lies as ComfyUI has it: ``models/diffusion_models/backbone``, ``models/dcm/{semantic,detail}``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import copy
from typing import Any

import torch
import yaml
from diffusers import CogVideoXTransformer3DModel, HunyuanVideoTransformer3DModel, WanTransformer3DModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from training import distill, paths, prepare
from training.config import load_config
from training.methods.distillation import Distillation
from training.trainer import build_trainer

from .clips import moving
from .encoder_folders import cogvideox_folder, hunyuan_video_folder, wan_folder, wan_image_folder
from .gallery import write_gallery
from .random_weights import randomise

PROMPT = "a block moves to the right"
SEED, STEPS = 7, 4
WEIGHTS, LOW_NOISE = (f"{name}/diffusion_pytorch_model.safetensors" for name in ("backbone", "low_noise"))


@dataclass(frozen=True)
class Kind:
    """A family's class and tiny sizes, the folder of its encoders, and what it asks of a method. ``pair``: are there
    two networks of it, which share a run?"""

    family: str
    network: Callable[..., nn.Module]
    sizes: dict[str, Any]
    encoders: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=lambda: {"guidance": 2.0})
    tokens: int = 0  # that ComfyUI pads its texts to
    image: bool = False  # to video
    pair: bool = False


# Widths that the host's own classes take for granted.
_WAN = {"num_attention_heads": 1, "attention_head_dim": 128, "num_layers": 2, "ffn_dim": 256}
KINDS = {
    "wan": Kind("wan", WanTransformer3DModel, _WAN, partial(wan_folder, width=4096), tokens=512),
    "wan i2v": Kind(
        "wan",
        WanTransformer3DModel,
        {**_WAN, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 128},
        partial(wan_image_folder, width=4096),
        tokens=512,
        image=True,
    ),
    "wan 2.2 i2v": Kind(
        "wan",
        WanTransformer3DModel,
        {**_WAN, "in_channels": 36},
        partial(wan_image_folder, width=4096, seen=None),
        tokens=512,
        image=True,
    ),
    "hunyuan_video": Kind(
        "hunyuan_video",
        HunyuanVideoTransformer3DModel,
        {"num_attention_heads": 1, "num_layers": 1, "num_single_layers": 2, "text_embed_dim": 256},
        partial(hunyuan_video_folder, width=256, pooled=768),
        {"guidance": 1.0, "embedded_guidance": 6.0},
    ),
    "cogvideox": Kind(
        "cogvideox",
        CogVideoXTransformer3DModel,
        {"num_attention_heads": 3, "num_layers": 2, "text_embed_dim": 256, "time_embed_dim": 64,
         "use_rotary_positional_embeddings": True},
        partial(cogvideox_folder, width=256),
    ),
}  # fmt: skip

KINDS["wan pair"] = replace(KINDS["wan"], pair=True)


@dataclass(frozen=True)
class Way:
    """One walked way: its folder, and the configuration in it."""

    folder: Path
    kind: Kind
    prompts_alone: bool

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def expert(self, name: str) -> Path:
        return self.models / "dcm" / f"{name}.safetensors"

    def weights(self, stage: str) -> Path:
        """The file of the network that a stage's expert lies over, with or without another in between."""
        return self.models / "diffusion_models" / (LOW_NOISE if self.kind.pair and stage == "detail" else WEIGHTS)

    def method(self, stage: str = "detail") -> Distillation:
        """A finished stage, as a resumed run has it."""
        trainer = build_trainer(load_config(str(self.config), [f"stage={stage}"]))
        trainer.load()
        return trainer.method


def walk(folder: Path, name: str, mode: str = "full", prompts_alone: bool = False, rank: int | str = 2) -> Way:
    """The whole way of a family: from videos as published, from prompts alone by regression on the teacher's paths.

    ``rank``: of the detail expert.
    """
    way = Way(folder, KINDS[name], prompts_alone)
    for seed, weights in enumerate(dict.fromkeys(map(way.weights, ("semantic", "detail")))):
        _write_backbone(weights, way.kind, seed)
    encoders, cache = str(way.kind.encoders(folder / "encoders")), str(folder / "cache")
    prompts = ["--image-to-video", "--prompts", _pictured(folder)] if way.kind.image else ["--prompts", _lines(folder)]
    videos = [] if prompts_alone else ["--data", str(write_gallery(folder / "videos"))]
    prepare.main(
        [*videos, "--backbone", way.kind.family, "--weights", encoders]
        + ["--output", cache, *prompts, "--negative-prompt", "blurred"]
        + "--resolution 64x48 --frames 9 1 --fps 8 --max-enlarge 9 --workers 0 --device cpu".split()
    )
    data = {"cache": cache, "encoders": encoders, "negative_prompt": True}
    way.config.write_text(yaml.safe_dump(_config(way, mode, data, prompts_alone, rank), sort_keys=False))
    if prompts_alone:
        paths.main(["--config", str(way.config)])
    distill.main(["--config", str(way.config)])
    (way.models / "dcm").mkdir()
    for stage in ("semantic", "detail"):
        copy(folder / "run" / stage / f"{stage}.safetensors", way.expert(stage))
    save_file(_sampled(way), folder / "expected.safetensors")
    return way


def _lines(folder: Path) -> str:
    """A file of the prompt."""
    (folder / "prompts.txt").write_text(f"{PROMPT}\n")
    return f"{folder}/prompts.txt"


def _pictured(folder: Path) -> str:
    """A table of the prompt and its first frame."""
    Image.fromarray(moving(1, 48, 64)[0]).save(folder / "first.png")
    (folder / "prompts.csv").write_text(f"path,caption\nfirst.png,{PROMPT}\n")
    return f"{folder}/prompts.csv"


def _write_backbone(file: Path, kind: Kind, seed: int) -> None:
    network = randomise(kind.network(**kind.sizes), seed=seed)
    for name, table in network.named_parameters():
        if name.endswith("scale_shift_table"):  # of three dimensions, where the rule for matrices makes it tiny
            table.data = 0.3 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    network.save_pretrained(file.parent)


def _config(way: Way, mode: str, data: dict[str, Any], prompts_alone: bool, rank: int | str) -> dict[str, Any]:
    adapter = {"rank": 2, "alpha": 4.0}
    options = {"mode": mode, **adapter, **way.kind.options}
    stage: dict[str, Any] = {"iterations": 2, "optimizer": {"lr": 0.003}}
    adversary = {"feature_stride": 1, "discriminator": {"lr": 0.001, "width": 16}}
    published = {
        "semantic": {"method": "semantic", **stage, "options": {**options, "tc_lag": 1}},
        "detail": {"method": "detail", **stage, "options": {**options, **adversary}},
    }
    regression = {
        name: {
            "method": "trajectory",
            "iterations": 12,
            "optimizer": {"lr": 0.0004 if mode == "adapter" else 0.0001},
            "options": {**options, "expert": name, "own": 0.5},
        }
        for name in ("semantic", "detail")
    }
    stages = regression if prompts_alone else published
    stages["detail"]["options"]["rank"] = rank
    backbone: dict[str, Any] = {"weights": str(way.weights("semantic"))}
    if way.kind.pair:
        backbone = {}
        stages["detail"]["options"] |= {"mode": "adapter", "guidance": 3.0}
    return {
        "output": str(way.folder / "run"),
        "device": "cpu",
        "backbone": {
            "name": way.kind.family,
            "architecture": way.kind.sizes,
            **backbone,
        },
        "pair": {"high_noise": str(way.weights("semantic")), "low_noise": str(way.weights("detail"))}
        if way.kind.pair
        else None,
        "data": {
            "name": "videos",
            "batch_size": 2,
            "options": data,
            **({"source": "teacher", "text_dropout": 0.0} if prompts_alone else {}),
        },
        "stages": stages,
        "validation": {"every": 12 if prompts_alone else 2, "prompts": [PROMPT], "steps": STEPS},
        "paths": {"count": 2, "batch_size": 2},
        "watch": {"every": 12 if prompts_alone else 2, "paths": 1, "floor_paths": 0},
    }


@torch.no_grad()
def _sampled(way: Way) -> dict[str, Tensor]:
    """The texts as ComfyUI's own encoders give them to a network, and the latents that the trainer samples."""
    method = way.method()
    told = method.data.conditions([PROMPT])
    start = torch.randn(1, *method.data.latent_shape, generator=torch.manual_seed(SEED))
    if way.kind.pair:  # the semantic expert's share is done by its own stage
        high = way.method("semantic")
        start = high.followed(high.few_step(told), start, high.sigmas(STEPS))
    expected = {
        "latents": method.sample(start, told, STEPS),
        "semantic_alone": method.followed(method.model(method.roles.below, told), start, method.sigmas(STEPS)),
        "text": pad(told.text, (0, 0, 0, max(0, way.kind.tokens - told.text.shape[1]))),
    }
    others = {"pooled": told.pooled, "image": told.image, "vision": told.vision}
    return {**expected, **{name: tensor for name, tensor in others.items() if tensor is not None}}
