"""What a stage needs: weights by role, gradients, optimizers, activations, and operations of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..config import BackboneConfig, Config
from ..data.batch import Conditions
from ..data.buckets import Size
from ..errors import ConfigError
from ..methods.adversary import AdversaryOptions
from ..methods.base import Calls, Method
from ..methods.distillation import DistillationOptions
from ..networks.blocks import prepare
from ..networks.discriminator import Discriminator
from ..networks.network import Network
from ..networks.roles import Player, Roles, cast_roles
from .probe import Cost, Depth, cost, counted, without_data

_BLOCKS = ("num_layers", "num_single_layers")  # what diffusers' classes call the numbers of their blocks
_MOMENTS = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # bytes a trained weight; of muon's vectors twice as many
_SEEN = 257  # patches of CLIP's picture, and one for all of it

Latents = tuple[int, int, int, int]


class Clip(NamedTuple):
    """What it is called, its latents [C, T, H, W], and how many tokens they are."""

    size: str
    latents: Latents
    tokens: int


@dataclass(frozen=True)
class Need:
    """Of one stage on one GPU. Memory in bytes; ``flop`` of an iteration of ``batch`` clips."""

    clip: Clip
    batch: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    flop: float

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations


class Outline:
    """A backbone whose networks have shapes and no weights, and which needs no file."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def build(self) -> Network:
        with torch.device("meta"):
            return self.backbone.build(0)

    def apply(self, network: Network, expert: Any) -> None:
        """An expert of full size changes no shape."""

    def lay(self, network: Network, expert: Any, name: str) -> None:
        """As large as the adapter over it."""
        self.add_adapter(network, name, expert.rank, expert.alpha, 0)
        network.requires_grad_(False)

    def add_adapter(self, network: Network, name: str, rank: int, alpha: float, seed: int) -> None:
        with torch.device("meta"):
            self.backbone.add_adapter(network, name, rank, alpha, seed)


def clip_of(backbone: Backbone, network: Network, size: Size | None, latents: Latents | None) -> Clip:
    """A clip of this size, or of these latents, or of the size that the backbone is for, as a network sees it."""
    shown = str(size or (f"latents of {latents}" if latents else backbone.usual))
    if size or not latents:
        latents = backbone.latents(network, size or backbone.usual)
    for length, part, what in zip(latents[1:], network.patch, ("frames", "height", "width"), strict=True):
        if not length or length % part:
            raise ConfigError(f"--size {shown}: that is {length} latents in {what}, and a token takes {part}.")
    return Clip(shown, latents, prod(length // part for length, part in zip(latents[1:], network.patch, strict=True)))


def need(
    config: Config,
    method: type[Method],
    options: Any,
    make: Callable[[BackboneConfig], Backbone],
    size: Size | None,
    latents: Latents | None,
) -> Need:
    """What the selected stage needs. ``make`` builds a backbone adapter; ``size`` or ``latents`` of clips, else those
    that the backbone is for."""
    backbone = make(config.backbone)
    whole = _networks(config, options, backbone)
    first = whole.student.network
    clip = clip_of(backbone, first, size, latents)
    rows = config.stage_data().batch_size
    at_once = min(rows, config.compute.micro_batch or rows)
    depth = {
        name: backbone.arguments[name] for name in ("num_layers", "num_single_layers") if name in backbone.arguments
    }
    calls, stride = method.calls(options, config), getattr(options, "feature_stride", 0)

    def count(few: Depth) -> Cost:
        architecture = {**config.backbone.architecture, **few}
        shorter = make(config.backbone.model_copy(update={"architecture": architecture}))
        return _iteration(config, _networks(config, options, shorter), shorter, clip, at_once, calls, stride)

    found = cost(depth, count)
    discriminator = _discriminator(options, backbone, first) if calls.through else []
    own = [p for p in first.parameters() if p.requires_grad]
    trained = sum(p.numel() for p in own)
    learned = trained + sum(p.numel() for p in discriminator)
    return Need(
        clip=clip,
        batch=rows,
        trained=trained,
        weights=_bytes(p for network in whole.networks for p in _on_the_card(network, config.compute.offload))
        + _bytes(discriminator),
        gradients=4 * learned,
        optimizer=_MOMENTS[config.selected().optimizer.name] * trained + 8 * (learned - trained),
        averages=0 if config.selected().ema_decay is None else 4 * trained,
        activations=int(found.memory),
        flop=found.flop * rows / at_once,
    )


def _networks(config: Config, options: Any, backbone: Backbone) -> Roles:
    outline = Outline(backbone)
    network = outline.build()
    if not isinstance(options, DistillationOptions):
        player = Player(network.requires_grad_(True))
        return Roles(player, player, player, player)
    adapter = {"rank": options.rank, "alpha": options.alpha, "seed": 0}
    semantic: Any = options if options.over_semantic and config.pair is None else None
    dtype = getattr(torch, config.compute.dtype)
    return cast_roles(outline, network, options.mode, adapter, options.averaged_target, semantic, dtype)


def _iteration(
    config: Config, roles: Roles, backbone: Backbone, clip: Clip, rows: int, calls: Calls, stride: int
) -> Cost:
    """Of a micro batch, at the depth that the roles have."""
    with without_data():
        for network in roles.networks:
            network.to_empty(device="cpu")
            prepare(network, config.compute, None, torch.device("cpu"))
        x = torch.empty(rows, *clip.latents)
        conditions = _conditions(backbone, roles.student.network, rows, clip.latents)
        timestep = torch.empty(rows)

        def call(player: Player, into: Tensor, stride: int = 0) -> Tensor:
            velocity, features = player(into, timestep, conditions, stride)
            return velocity if features is None else torch.stack([each.mean() for each in features.velocities])

        own = counted(roles.student.network, lambda: call(roles.student, x), trained=True)
        plain = counted(roles.teacher.network, lambda: call(roles.teacher, x), trained=False)
        memory = max(own.memory, plain.memory)
        flop = calls.trained * own.flop + calls.plain * plain.flop
        if calls.through:
            seen = x.requires_grad_(True)
            features = counted(roles.teacher.network, lambda: call(roles.teacher, seen, stride), trained=True)
            # The student's graph waits for the gradient that comes through the teacher.
            memory, flop = max(memory, own.kept + features.memory), flop + calls.through * features.flop
    return Cost(memory, own.kept, flop)


def _conditions(backbone: Backbone, network: Network, rows: int, latents: Latents) -> Conditions:
    config, (channels, *grid) = network.transformer.config, latents
    width = config.get("text_dim") or config.get("text_embed_dim")
    pooled = config.get("pooled_projection_dim")
    return Conditions(
        torch.empty(rows, backbone.text_tokens, width),
        pooled=None if pooled is None else torch.empty(rows, pooled),
        guidance=torch.empty(rows) if config.get("guidance_embeds") else None,
        image=torch.empty(rows, config.in_channels - channels, *grid) if "image" in backbone.told_of_image else None,
        vision=torch.empty(rows, _SEEN, config.image_dim) if "vision" in backbone.told_of_image else None,
    )


def _discriminator(options: AdversaryOptions, backbone: Backbone, network: Network) -> list[nn.Parameter]:
    with torch.device("meta"):
        channels, layers = backbone.feature_shape(network, options.feature_stride)
        return list(Discriminator(channels, layers, options.discriminator.width).parameters())


def _on_the_card(network: Network, offload: bool) -> list[nn.Parameter]:
    away = {id(p) for block in network.blocks for p in block.parameters() if offload and not p.requires_grad}
    return [p for p in network.parameters() if id(p) not in away]


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
