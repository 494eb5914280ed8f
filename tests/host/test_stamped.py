"""Noise levels that are written into a LoRA's file while ComfyUI runs count in the next run, of which it kept much."""

import torch
from safetensors.torch import save_file

from dcm_core.convert.stamp import stamp
from dcm_core.schedule.passport import Passport


def test_a_file_that_is_stamped_between_two_runs(client, server, checkpoints):
    file = server.models / "loras" / "stamped.safetensors"
    file.parent.mkdir(exist_ok=True)
    pair = {"lora_down.weight": torch.ones(2, 128), "lora_up.weight": torch.ones(128, 2)}
    save_file({f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in pair.items()}, file)
    nodes = {
        "backbone": ("DCMLoadBackbone", {"backbone_name": checkpoints["wan"], "weight_dtype": "default"}),
        "lora": (
            "LoraLoaderModelOnly",
            {"model": ["backbone", 0], "lora_name": file.name, "strength_model": 1.0},
        ),
        "sigmas": ("DCMSigmas", {"model": ["lora", 0], "steps": 0, "preset": "experts"}),
        "plot": ("PreviewImage", {"images": ["sigmas", 2]}),
        "unconnected": ("DCMSigmas", {"steps": 0, "preset": "experts"}),  # which stops nothing
    }
    prompt = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}

    def kept() -> set[str]:
        run = client.run(prompt)
        assert run.status == "success", run.error
        return {name for kind, data in run.events if kind == "execution_cached" for name in data["nodes"]}

    assert "sigmas" not in kept()
    assert {"lora", "sigmas"} <= kept()
    stamp(file, Passport({2: (1.0, 0.5)}))
    after = kept()
    assert "lora" in after and "sigmas" not in after
    assert {"lora", "sigmas"} <= kept()
