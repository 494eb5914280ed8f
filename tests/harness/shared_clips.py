"""What tiny networks make of a batch, with their gradients: in this process, or by torchrun with clips that are shared.

python -m torch.distributed.run --nproc-per-node=2 -m harness.shared_clips FILE
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from training.config import Config, build
from training.data.batch import Conditions
from training.run.parallel import split, whole
from training.run.world import World, farewell, join

from .tiny_backbones import BACKBONES

# (backbone, how long its texts are, padding among them, and how many of them are tokens): one of each two rows
CASES = {
    "wan t2v": ("wan t2v", 20, (1, 5)),
    "wan i2v": ("wan i2v", 20, (1, 5)),
    "three quarters padded": ("hunyuan_video", 20, (4, 5)),
    "far from equal": ("hunyuan_video", 20, (1, 5)),
    "without padding": ("hunyuan_video", 5, (5, 5)),
    "all in one process": ("hunyuan_video", 20, (1, 1)),
}
TIMESTEP = torch.tensor([981.8, 412.25])


def measured(name: str, world: World) -> dict[str, Tensor]:
    """Velocity, features, and the gradients of all weights and of the latents, by their names."""
    backbone, *_ = CASES[name]
    tiny = BACKBONES[backbone]
    network, x = tiny.network(), tiny.noise().requires_grad_()
    split(network, world)
    velocity, features = network(x, TIMESTEP, told(name), 1)
    found = {"velocity": velocity}
    for place, (tokens, seen) in enumerate(zip(features.tokens, features.velocities, strict=True)):
        found |= {f"tokens {place}": tokens, f"seen {place}": seen}
    sum(each.pow(3).mean() for each in found.values()).backward()
    for weight, parameter in network.named_parameters():
        found[f"gradient of {weight}"] = whole(parameter.grad)
    if world.context is not None:  # each process has that of its own tokens
        dist.all_reduce(x.grad)
    found["gradient of x"] = x.grad
    return {f"{name}: {each}": tensor.detach().contiguous() for each, tensor in found.items()}


def told(name: str) -> Conditions:
    """Texts whose padding is no zeros."""
    backbone, padded, lengths = CASES[name]
    conditions = replace(BACKBONES[backbone], padded=padded).conditions()
    mask = torch.arange(padded) < torch.tensor(lengths)[:, None]
    return replace(conditions, mask=None if mask.all() else mask)


def main(path: str) -> None:
    torch.accelerator.device_count = lambda: 1  # diffusers asks for it, and a machine without one has 0
    values = {"output": ".", "device": "cpu", "parallel": {"context": 2}}
    world = join(build(Config, values))
    found = {key: tensor for name in CASES for key, tensor in measured(name, world).items()}
    if world.first:
        save_file(found, path)
    farewell()


if __name__ == "__main__":
    main(sys.argv[1])
