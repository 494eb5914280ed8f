"""Making the shipped workflows run without their large files: stand-ins, tiny checkpoints, small videos."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

from safetensors.torch import save_file

from dcm_core.backbone.file import BackboneFile

from .hosts import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NAMES = [file.stem for file in WORKFLOWS]
# As docs/nodes.md has them: what needs no download first.
IN_ORDER = re.findall(r"^\| `(\w+)\.json`", (ROOT / "docs" / "nodes.md").read_text("utf-8"), re.MULTILINE)

# Loader node -> (its input with the file name, the model folder it reads).
LOADERS = {
    "DCMLoadBackbone": ("backbone_name", "diffusion_models"),
    "UNETLoader": ("unet_name", "diffusion_models"),
    "DCMLoadExpert": ("expert_name", "dcm"),
    "LoraLoaderModelOnly": ("lora_name", "loras"),
}
# The width of the text vectors that the stand-in makes, by the `type` of the text encoder loader.
TEXT_WIDTHS = {"wan": 4096, "hunyuan_video": 256, "cogvideox": 256}
# What takes the place of other loaders whose files are too large, or that the workflow's user brings.
STAND_INS = {
    "VAELoader": ("DCMTestVAE", {}),
    "CLIPVisionLoader": ("DCMTestCLIPVision", {}),
    "LoadImage": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0x336699}),
}
# A full-size video takes the tiny networks minutes: attention grows with the square of the tokens.
SMALL_VIDEO = {"width": 128, "height": 128, "length": 9}
# What a file of this name is -> the tiny network in its place; the first that is in the name.
NETWORKS = {
    "DCM_WAN/": "wan_bundle",
    "DCM_HY/": "hunyuan_video_bundle",
    "hunyuan": "hunyuan_video",
    "CogVideoX": "cogvideox",
    "cogvideox": "cogvideox",
    "_i2v_": "wan_i2v",
    "lightx2v_T2V_14B": "wan",
    "wan": "wan",
}


def with_stand_ins(prompt: dict) -> dict:
    """The API-format prompt with stand-ins for what encodes and decodes, and a small video; all else as it was."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in ("CLIPLoader", "DualCLIPLoader"):
            node |= {"class_type": "DCMTestCLIP", "inputs": {"channels": TEXT_WIDTHS[inputs["type"]]}}
        elif kind in STAND_INS:
            stand_in, settings = STAND_INS[kind]
            node |= {"class_type": stand_in, "inputs": dict(settings)}
        elif SMALL_VIDEO.keys() <= inputs.keys():
            inputs |= SMALL_VIDEO
    return prompt


def place_checkpoints(prompt: dict, models: Path, checkpoints: dict[str, str]) -> None:
    """Puts a tiny checkpoint of the right kind under each file name that the prompt's loaders carry."""
    for node in prompt.values():
        if node["class_type"] not in LOADERS:
            continue
        field, folder = LOADERS[node["class_type"]]
        name = node["inputs"][field]
        network = next(network for part, network in NETWORKS.items() if part in name)
        # A speed LoRA, which says neither, is any low-rank change of the network.
        expert = next((kind for kind in ("semantic", "detail") if kind in name), "")
        if folder == "loras":
            expert = expert or "detail"
        source = models / ("dcm" if expert else "diffusion_models")
        source /= checkpoints[f"{network}_{expert}" if expert else network]
        target = models / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix:
            shutil.copyfile(source, target)
        else:
            write_shards(source, target)


def write_shards(source: Path, folder: Path) -> None:
    """The backbone as diffusers models are downloaded: a folder with several files, under diffusers' names."""
    with BackboneFile.open(source) as backbone:
        tensors = {name: backbone.build(recipe) for name, recipe in backbone.recipes("diffusers").items()}
    folder.mkdir(exist_ok=True)
    for number in (1, 2):
        part = {name: tensors[name] for name in sorted(tensors)[number - 1 :: 2]}
        save_file(part, folder / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors")


def node_of(prompt: dict, class_type: str) -> str:
    """The id of the only node of this type."""
    found = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    assert len(found) == 1, f"{len(found)} nodes of type {class_type}"
    return found[0]
