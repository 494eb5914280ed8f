"""Making the shipped workflows run without their large files: stand-ins, tiny checkpoints, small videos."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from .hosts import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NAMES = [file.stem for file in WORKFLOWS]

# Loader node -> (its input with the file name, the model folder it reads).
LOADERS = {
    "DCMLoadBackbone": ("backbone_name", "diffusion_models"),
    "UNETLoader": ("unet_name", "diffusion_models"),
    "DCMLoadExpert": ("expert_name", "dcm"),
    "LoraLoaderModelOnly": ("lora_name", "loras"),
}
# The width of the text vectors that the stand-in makes for each text encoder loader.
TEXT_ENCODERS = {"CLIPLoader": 4096, "DualCLIPLoader": 256}
# A full-size video takes the tiny networks minutes: attention grows with the square of the tokens.
SMALL_VIDEO = {"width": 128, "height": 128, "length": 9}


def with_stand_ins(prompt: dict) -> dict:
    """The API-format prompt with stand-ins for text encoder and VAE, and a small video; all else as it was."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        kind = node["class_type"]
        if kind in TEXT_ENCODERS:
            node |= {"class_type": "DCMTestCLIP", "inputs": {"channels": TEXT_ENCODERS[kind]}}
        elif kind == "VAELoader":
            node |= {"class_type": "DCMTestVAE", "inputs": {}}
        elif kind == "EmptyHunyuanLatentVideo":
            node["inputs"] |= SMALL_VIDEO
    return prompt


def place_checkpoints(prompt: dict, models: Path, checkpoints: dict[str, str]) -> None:
    """Puts a tiny checkpoint of the right kind under each file name that the prompt's loaders carry."""
    for node in prompt.values():
        if node["class_type"] not in LOADERS:
            continue
        field, folder = LOADERS[node["class_type"]]
        name = node["inputs"][field]
        family = "hunyuan_video" if "hunyuan" in name else "wan"
        expert = next((f"_{kind}" for kind in ("semantic", "detail") if kind in name), "")
        source = models / ("dcm" if expert else "diffusion_models") / checkpoints[family + expert]
        (models / folder).mkdir(exist_ok=True)
        shutil.copyfile(source, models / folder / name)


def node_of(prompt: dict, class_type: str) -> str:
    """The id of the only node of this type."""
    found = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    assert len(found) == 1, f"{len(found)} nodes of type {class_type}"
    return found[0]
