"""In the host's process: the nodes load a backbone and both experts from the host's folders, and sample.

    <host python> -m harness.sampled_by_nodes FOLDER

reads ``expected.safetensors`` (see harness/whole_way.py) and writes ``found.safetensors``, the network's latents. Where
there is a second backbone, ``low_noise``, the two are a pair, and the detail expert goes over that.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

from . import in_host

in_host.prepare()

import torch  # noqa: E402  (the host reads its options while it is imported)
from safetensors.torch import load_file, save_file  # noqa: E402


async def _registered() -> None:
    await (await in_host.load_pack().comfy_entrypoint()).get_node_list()


def main(folder: Path) -> None:
    asyncio.run(_registered())
    from dcm_pack import nodes

    expected = load_file(folder / "expected.safetensors")
    semantic, detail = (nodes.DCMLoadExpert.execute(f"{name}.safetensors").args[0] for name in ("semantic", "detail"))

    def loaded(name: str):
        return nodes.DCMLoadBackbone.execute(f"{name}/diffusion_pytorch_model.safetensors", "default").args[0]

    pair = {}
    if (folder / "models" / "diffusion_models" / "low_noise").exists():
        low, info = nodes.DCMApplyExperts.execute(loaded("low_noise"), detail).args
        print(info)
        pair, detail = {"low_noise_model": low}, None
    model, info = nodes.DCMApplyExperts.execute(loaded("backbone"), detail, semantic).args
    told = {"pooled_output": expected["pooled"]} if "pooled" in expected else {}
    if "image" in expected:  # as the host's node of image to video tells it
        mask, image = expected["image"].split([4, 16], dim=1)
        told |= {"concat_mask": 1 - mask, "concat_latent_image": model.model.process_latent_out(image)}
    if "vision" in expected:
        told["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=expected["vision"])
    texts, empty = [[[expected["text"], told]]] * 2, {"samples": torch.zeros_like(expected["latents"])}
    latent, more = nodes.DCMKSampler.execute(model, 7, 4, 1.0, *texts, empty, **pair).args
    print(info, more, sep="\n")
    save_file({"latents": model.model.process_latent_in(latent["samples"])}, folder / "found.safetensors")


if __name__ == "__main__":
    with torch.inference_mode():
        torch.set_num_threads(1)
        main(Path(sys.argv[1]))
