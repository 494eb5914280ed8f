"""Loading a backbone takes the memory of the network and of one tensor of its file, and no more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.config import BackboneConfig
from training.networks.weights import parameters_without_memory
from training.registry import build_backbone

ROOT = Path(__file__).parents[3]
# What the allocator and Python take beside tensors.
SLACK = 24e6
WIDE = {"num_attention_heads": 8, "attention_head_dim": 128}
SIZES = {
    "wan": WIDE | {"ffn_dim": 4096},
    "hunyuan_video": WIDE | {"num_layers": 1, "text_embed_dim": 256},  # q, k, v and the MLP are one tensor of the file
}
BLOCKS = {"wan": "num_layers", "hunyuan_video": "num_single_layers"}

LOAD = """
import json, sys, threading, time
import torch
from training.config import Config, build
from training.methods.base import Setup
from training.methods.distillation import DistillationOptions, load_teacher
from training.registry import build_backbone

def anonymous():
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

name, path, dtype, architecture = sys.argv[1:]
config = build(Config, {
    "output": "unused",
    "backbone": {"name": name, "weights": path, "architecture": json.loads(architecture)},
    "compute": {"dtype": dtype},
})
setup = Setup(config, build_backbone(config.backbone), None, None)
before, seen, done = anonymous(), [], threading.Event()

def watch():
    while not done.is_set():
        seen.append(anonymous())
        time.sleep(0.001)

watching = threading.Thread(target=watch)
watching.start()
network = load_teacher(setup, DistillationOptions(embedded_guidance=6.0))
done.set()
watching.join()
size = sum(p.numel() * p.element_size() for p in network.parameters())
print(json.dumps({"peak": max(seen) - before, "network": size}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts anonymous memory as Linux tells it")
@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        ("wan", "bfloat16", 0.4e9),
        ("hunyuan_video", "float32", 0.4e9),
        *(
            pytest.param(name, dtype, 2e9, marks=pytest.mark.slow)
            for name in SIZES
            for dtype in ("float32", "bfloat16")
        ),
    ],
)
def test_loading_a_teacher_takes_the_network_as_it_is_trained_with_and_its_largest_tensor(name, dtype, size, tmp_path):
    architecture, path = SIZES[name] | {BLOCKS[name]: blocks(name, size)}, tmp_path / "x.safetensors"
    largest = written(name, architecture, path)
    assert 0.8 * size < path.stat().st_size < 1.2 * size
    command = [sys.executable, "-c", LOAD, name, str(path), dtype, json.dumps(architecture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["network"] < (0.6 if dtype == "bfloat16" else 1.1) * path.stat().st_size
    assert 0.9 * found["network"] < found["peak"] < found["network"] + largest + SLACK, (found, largest)


def shapes(name: str, architecture: dict) -> dict[str, torch.Tensor]:
    """The file's tensors without memory, under ComfyUI's names."""
    backbone = build_backbone(BackboneConfig(name=name, architecture=architecture))
    with parameters_without_memory():
        return backbone.keymap.state_to_comfy(backbone.build(0).transformer.state_dict())


def blocks(name: str, size: float) -> int:
    """How many make a file of about so many bytes."""
    one, two = (sum(4 * t.numel() for t in shapes(name, SIZES[name] | {BLOCKS[name]: n}).values()) for n in (1, 2))
    return round((size - one) / (two - one)) + 1


def written(name: str, architecture: dict, path: Path) -> int:
    """Writes such a file in float32; the bytes of its largest tensor."""
    tensors = {key: torch.rand(t.shape) for key, t in shapes(name, architecture).items()}
    save_file(tensors, path)
    return max(4 * tensor.numel() for tensor in tensors.values())
