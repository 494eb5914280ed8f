"""In the host's process: LoRA files in the spellings and kinds that its loaders know, over a tiny network."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import comfy.sd
import torch
from torch import Tensor, nn

from .worlds import World

RANK, ALPHA = 4, 8.0
# How a low-rank pair is called after the layer's name: up, down.
PAIRS = {
    "kohya": (".lora_up.weight", ".lora_down.weight"),
    "peft": (".lora_B.weight", ".lora_A.weight"),
    "peft_default": (".lora_B.default.weight", ".lora_A.default.weight"),
    "diffusers": (".lora.up.weight", ".lora.down.weight"),
    "diffusers_old": ("_lora.up.weight", "_lora.down.weight"),
    "linear_layer": (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    "mochi": (".lora_B", ".lora_A"),
}
BOTH = (1.0, 0.4)  # the semantic and the detail strength, where nothing else is meant
STEPS = 2
LAYERS = ("blocks.0.self_attn.q", "blocks.1.ffn.0", "time_embedding.0")


class Maker:
    """Random changes of layers of a network [out, in], about ``strength`` times as large as their weights."""

    def __init__(self, network: nn.Module, seed: int = 0, strength: float = 0.6):
        self.network, self.strength = network, strength
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def size(self, layer: str) -> tuple[int, int]:
        weight = self.network.get_submodule(layer).weight
        return weight.shape[0], weight[0].numel()

    def pair(self, layer: str, spelling: str = "kohya", stem: str | None = None, rank: int = RANK) -> dict[str, Tensor]:
        rows, columns = self.size(layer)
        up, down = PAIRS[spelling]
        stem = stem or f"diffusion_model.{layer}"
        scale = self.strength / rank**0.5 / (columns * ALPHA / rank) ** 0.5
        made = {f"{stem}{up}": scale * self.random(rows, rank), f"{stem}{down}": self.random(rank, columns)}
        return made | {f"{stem}.alpha": torch.tensor(ALPHA)}

    def difference(self, layer: str) -> dict[str, Tensor]:
        module, stem = self.network.get_submodule(layer), f"diffusion_model.{layer}"
        scale = self.strength / max(1, module.weight[0].numel()) ** 0.5
        made = {f"{stem}.diff": scale * self.random(*module.weight.shape)}
        if getattr(module, "bias", None) is not None:
            made[f"{stem}.diff_b"] = self.strength * self.random(*module.bias.shape)
        return made

    def loha(self, layer: str) -> dict[str, Tensor]:
        rows, columns = self.size(layer)
        scale = (self.strength / columns**0.5 / RANK) ** 0.5
        stem = f"diffusion_model.{layer}.hada_w"
        made = {f"{stem}{each}_a": scale * self.random(rows, RANK) for each in (1, 2)}
        return made | {f"{stem}{each}_b": self.random(RANK, columns) for each in (1, 2)}

    def lokr(self, layer: str) -> dict[str, Tensor]:
        rows, columns = self.size(layer)
        stem = f"diffusion_model.{layer}.lokr_w"
        second = self.strength / columns**0.5 * self.random(rows // 4, 2)
        made = {f"{stem}1": self.random(4, 8), f"{stem}2_a": second, f"{stem}2_b": self.random(2, columns // 8)}
        return made | {f"diffusion_model.{layer}.alpha": torch.tensor(2.0)}

    def dora(self, layer: str, of: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
        norm = self.network.get_submodule(layer).weight.norm(dim=1, keepdim=True)
        scale = norm * (1 + 0.3 * self.random(*norm.shape))
        return of(layer) | {f"diffusion_model.{layer}.dora_scale": scale}


def stock(model, tensors: dict[str, Tensor], strength: float):
    """The MODEL as the stock loader makes it."""
    return comfy.sd.load_lora_for_models(model, None, dict(tensors), strength, 0.0)[0] if strength else model


def all_of(make: Callable[[str], dict[str, Tensor]], layers: Iterable[str] = LAYERS) -> dict[str, Tensor]:
    return {key: tensor for layer in layers for key, tensor in make(layer).items()}


def sampled(this: World, model) -> Tensor:
    return this.custom_sampled(model, this.schedule.sigmas(STEPS))


def by_two_loaders(this: World, tensors: dict[str, Tensor], wrap: Callable = lambda model: model) -> Tensor:
    """The stock loader at each strength, over a MODEL of its own, and a stock sampler for each."""
    return this.in_two_runs(*(wrap(stock(this.model(), tensors, strength)) for strength in BOTH), steps=STEPS)
