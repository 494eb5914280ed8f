"""The paths of path.py, run by the host's Python: prints one JSON line.

    <host python> path_in_host.py ROOT BASE

BASE holds models/ with the files that path.py writes.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

import torch
from harness import in_host
from tracer import Tracer

ROOT, BASE = Path(sys.argv[1]), sys.argv[2]
os.environ["DCM_TEST_BASE"] = BASE
in_host.prepare()
pack = in_host.load_pack(ROOT)

import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402

FOLDERS = ("dcm_core", "nodes")
DETAIL = (0.5, 0.45)  # noise levels of a step of the detail expert


def import_everything() -> None:
    """So that no import happens on a path."""
    for folder in FOLDERS:
        package = importlib.import_module(f"{pack.__name__}.{folder}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


async def node_classes() -> dict[str, Any]:
    """The nodes as the host gets them: id -> class."""
    classes = await (await pack.comfy_entrypoint()).get_node_list()
    return {each.GET_SCHEMA().node_id: each for each in classes}


def one_step(model) -> None:
    """A stock sampler over a MODEL with experts, at noise levels that are the detail expert's from the start."""
    latent, text = torch.zeros(1, 16, 1, 8, 8), [[torch.zeros(1, 8, 4096), {}]]
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor(DETAIL)
    noise = comfy.sample.prepare_noise(latent, 0)
    comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, text, text, latent, disable_pbar=True)


def main() -> None:
    import_everything()
    nodes = asyncio.run(node_classes())
    load_backbone, load_expert = nodes["DCMLoadBackbone"].execute, nodes["DCMLoadExpert"].execute
    apply_experts = nodes["DCMApplyExperts"].execute
    expert, backbone, bundle = (Tracer(ROOT, *FOLDERS) for _ in range(3))
    backbone.run(lambda: load_backbone("backbone.safetensors", "default"))
    model = bundle.run(lambda: load_backbone("bundle.safetensors", "default"))[0]
    expert.run(
        lambda: one_step(apply_experts(model, load_expert("detail.safetensors")[0])[0]),
        until=type(model.model.diffusion_model).forward.__code__,
    )
    tracers = {"expert": expert, "backbone": backbone, "bundle": bundle}
    print(json.dumps({"paths": {name: tracer.counts() for name, tracer in tracers.items()}}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main()
