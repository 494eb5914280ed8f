"""What a stage needs: weights by role, gradients, optimizers, activations, and operations of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..backbones.base import Backbone
from ..config import BackboneConfig, ComputeConfig, Config
from ..data.batch import Conditions
from ..data.buckets import Size
from ..errors import ConfigError
from ..methods.base import Method
from ..methods.distillation import DistillationOptions
from ..networks.adapter import Rank
from ..networks.blocks import prepare
from ..networks.discriminator import Discriminator
from ..networks.narrow import BYTES, narrowed
from ..networks.network import Network
from ..networks.precision import lowered
from ..networks.roles import Player, Roles, cast_roles
from .need import Clip, Latents, Need
from .probe import Cost, Depth, cost, counted, fewest

BLOCKS = ("num_layers", "num_single_layers")  # what diffusers' classes call the numbers of their blocks
_TAPS = "taps"  # layers of features that are looked at
_MOMENTS = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # bytes a trained weight; of muon's vectors twice as many
_COPIES = 4  # bytes a weight that AdamW's step makes on a GPU where it is not one kernel: the roots of its averages
_SEEN = 257  # patches of CLIP's picture, and one for all of it


class Outline:
    """A backbone whose networks have shapes and no weights, and which needs no file."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def build(self) -> Network:
        with torch.device("meta"):
            return self.backbone.build(0)

    def load(self, dtype: torch.dtype) -> Network:
        """As a backbone file would give it, with frozen matrices in ``dtype``."""
        network = self.build()
        for name in lowered(network):
            weight = network.get_parameter(name)
            weight.data = weight.data.to(dtype)
        return network

    def apply(self, network: Network, expert: Any) -> None:
        """An expert of full size changes no shape."""

    def lay(self, network: Network, expert: Any, name: str) -> None:
        """As large as the adapter over it."""
        self.add_adapter(network, name, expert.rank, expert.alpha, 0)
        network.requires_grad_(False)

    def add_adapter(self, network: Network, name: str, rank: Rank, alpha: float, seed: int) -> None:
        with torch.device("meta"):
            self.backbone.add_adapter(network, name, rank, alpha, seed)


def clip_of(backbone: Backbone, network: Network, size: Size | None, latents: Latents | None) -> Clip:
    """A clip of this size, or of these latents, or of the size that the backbone is for, as a network sees it."""
    shown = str(size or (backbone.size(latents) if latents else backbone.usual))
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
    gpus: int = 1,
) -> Need:
    """What the selected stage needs on so many ``gpus``. ``make`` builds a backbone adapter; ``size`` or ``latents`` of
    clips, else those that the backbone is for."""
    backbone = make(config.backbone)
    whole = _networks(config, options, backbone)
    first = whole.student.network
    clip = clip_of(backbone, first, size, latents)
    rows = config.stage_data().batch_size
    sharing, shards = config.parallel.context, config.parallel.shard or gpus
    of_one = max(1, rows * sharing // gpus)
    at_once = min(of_one, config.compute.micro_batch or of_one)
    calls, stride = method.calls(options, config), getattr(options, "feature_stride", 0)
    probe = _Probe(config, options, make, clip, at_once)
    depth = {name: backbone.arguments[name] for name in BLOCKS if name in backbone.arguments}
    few = fewest(depth)
    own, plain = cost(depth, few, probe.student), cost(depth, few, probe.teacher)
    memory, flop = max(own.memory, plain.memory), calls.trained * own.flop + calls.plain * plain.flop
    discriminator: list[nn.Parameter] = []
    if calls.through:
        _, taps = backbone.feature_shape(first, stride)
        seen, held = probe.adversary(depth, few, taps, own.kept)
        memory, flop = max(memory, held), flop + calls.through * seen.flop
        discriminator = list(probe.discriminator(taps)[0].parameters())
    optimizer = config.selected().optimizer
    trained = sum(p.numel() for p in first.parameters() if p.requires_grad)
    learned = trained + sum(p.numel() for p in discriminator)
    return Need(
        clip=clip,
        batch=rows,
        at_once=at_once,
        trained=trained,
        judging=learned - trained,
        weights=sum(_held(network, config.compute) for network in whole.networks) + _bytes(discriminator),
        gradients=4 * learned,
        optimizer=_MOMENTS[optimizer.name] * trained + 8 * (learned - trained),
        averages=0 if config.selected().ema_decay is None else 4 * trained,
        activations=int(memory / sharing),
        copies=_COPIES * trained if optimizer.name == "adamw" and optimizer.fused is False else 0,
        flop=flop * rows / at_once,
        call=plain.flop / at_once,
        gathered=max(map(_gathered, whole.networks)) if shards > 1 else 0,
        gpus=gpus,
        shards=shards,
    )


class _Probe:
    """Counts the calls of an iteration on networks of a few blocks, made once for each depth."""

    def __init__(self, config: Config, options: Any, make: Callable[[BackboneConfig], Backbone], clip: Clip, rows: int):
        self.config, self.options, self.make, self.clip, self.rows = config, options, make, clip, rows
        self.dtype = getattr(torch, config.compute.dtype)
        self.cast: dict[tuple, tuple[Backbone, Roles]] = {}
        self.discriminators: dict[int, tuple[Discriminator, int]] = {}
        self.no_data = FakeTensorMode(allow_non_fake_inputs=True)

    def student(self, few: Depth) -> Cost:
        """The call of what is trained, and its way back."""
        backbone, roles = self._cast(few)
        return self._counted(backbone, roles.student, trained=True)

    def teacher(self, few: Depth) -> Cost:
        """A call without gradient."""
        backbone, roles = self._cast(few)
        return self._counted(backbone, roles.teacher, trained=False)

    def adversary(self, depth: Depth, few: Depth, taps: int, waiting: float) -> tuple[Cost, float]:
        """The call through the teacher and the discriminator, and the most that is held, with ``waiting`` bytes of the
        student's graph."""
        seen = cost({**depth, _TAPS: taps}, {**few, _TAPS: 1}, self.features)
        judged = cost({_TAPS: taps}, {_TAPS: 1}, self.judged)
        _, channels = self.discriminator(taps)
        features = self.dtype.itemsize * self.rows * taps * channels * self.clip.tokens
        # What the fake is compared with is seen without gradient, and held until the discriminator has learned too.
        others = features + 4 * self.rows * taps * prod(self.clip.latents)
        if self.options.real == "data":
            others += others
        return seen, max(waiting + others + seen.memory, features + others + judged.memory)

    def features(self, few: Depth) -> Cost:
        """The teacher's call that latents get their gradient through, with so many taps, and the discriminator's."""
        backbone, roles = self._cast({kind: number for kind, number in few.items() if kind != _TAPS})
        return self._counted(backbone, roles.teacher, trained=True, taps=few[_TAPS])

    def judged(self, few: Depth) -> Cost:
        """The discriminator's own turn, on the features of so many taps."""
        (_, roles), taps = next(iter(self.cast.values())), few[_TAPS]
        network = roles.teacher.network
        discriminator, channels = self.discriminator(taps)
        with self.no_data:
            grid = network.grid(torch.empty(self.rows, *self.clip.latents))
            tokens = [torch.empty(self.rows, self.clip.tokens, channels, dtype=self.dtype)] * taps

            def call() -> Tensor:
                return torch.stack([each.mean() for _ in range(2) for each in discriminator(tokens, grid)])

            return counted(discriminator, call, trained=True)

    def _counted(self, backbone: Backbone, player: Player, trained: bool, taps: int = 0) -> Cost:
        network, latents = player.network, self.clip.latents
        if taps:
            discriminator, _ = self.discriminator(taps)
            stride = len(network.tapped) if taps == 1 else (len(network.tapped) - 1) // (taps - 1)
        with self.no_data:
            x = torch.empty(self.rows, *latents, requires_grad=bool(taps))
            timestep, conditions = torch.empty(self.rows), empty_conditions(backbone, network, self.rows, latents)
            if not taps:
                return counted(network, lambda: player(x, timestep, conditions)[0], trained)

            def call() -> Tensor:
                _, features = player(x, timestep, conditions, stride)
                logits = discriminator(features.tokens, features.grid, frozen=True)
                return torch.stack([each.square().mean() for each in (*logits, *features.velocities)])

            return counted(network, call, trained)

    def discriminator(self, taps: int) -> tuple[Discriminator, int]:
        """With so many heads, and how many channels a token has."""
        if taps not in self.discriminators:
            backbone, roles = next(iter(self.cast.values()))
            channels, _ = backbone.feature_shape(roles.teacher.network, 1)
            with torch.device("meta"):
                made = Discriminator(channels, taps, self.options.discriminator.width, self.config.compute.recomputing)
            with self.no_data:
                self.discriminators[taps] = made._apply(_in_memory), channels
        return self.discriminators[taps]

    def _cast(self, few: Depth) -> tuple[Backbone, Roles]:
        key = tuple(few.items())
        if key not in self.cast:
            architecture = {**self.config.backbone.architecture, **few}
            backbone = self.make(self.config.backbone.model_copy(update={"architecture": architecture}))
            roles = _networks(self.config, self.options, backbone)
            compute = self.config.compute
            if compute.base:  # of 4 bits or 8, each layer is widened alike
                compute = compute.model_copy(update={"base": "fp8"})
            with self.no_data:
                for network in roles.networks:
                    network._apply(_in_memory)
                    prepare(network, compute, None, torch.device("cpu"))
            self.cast[key] = backbone, roles
        return self.cast[key]


def _in_memory(tensor: Tensor) -> Tensor:
    """A tensor like one on the meta device: seven times as fast as ``empty_like``, which ``to_empty`` takes."""
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _networks(config: Config, options: Any, backbone: Backbone) -> Roles:
    outline = Outline(backbone)
    if not isinstance(options, DistillationOptions):
        player = Player(outline.build().requires_grad_(True))
        return Roles(player, player, player, player)
    adapter = {"rank": options.rank, "alpha": options.alpha, "seed": 0}
    semantic: Any = options if options.over_semantic and config.pair is None else None
    network = outline.load(getattr(torch, config.compute.dtype))
    return cast_roles(outline, network, options.mode, adapter, options.averaged_target, semantic)


def empty_conditions(backbone: Backbone, network: Network, rows: int, latents: Latents) -> Conditions:
    """What a network is told beside latents [rows, C, T, H, W] and timestep, without a value in it."""
    config, (channels, *grid) = network.transformer.config, latents
    pooled = config.get("pooled_projection_dim")
    return Conditions(
        torch.empty(rows, backbone.text_tokens, network.text_width),
        pooled=None if pooled is None else torch.empty(rows, pooled),
        guidance=torch.empty(rows) if config.get("guidance_embeds") else None,
        image=torch.empty(rows, config.in_channels - channels, *grid) if "image" in backbone.told_of_image else None,
        vision=torch.empty(rows, _SEEN, config.image_dim) if "vision" in backbone.told_of_image else None,
    )


def _held(network: Network, compute: ComputeConfig) -> int:
    """Bytes of a network's weights on the GPU."""
    frozen = [p for block in network.blocks for p in block.parameters() if not p.requires_grad]
    if compute.offload:
        return _bytes(network.parameters()) - _bytes(frozen)
    if compute.base is None:
        return _bytes(network.parameters())
    narrow = [layer.weight for block in network.blocks for layer in narrowed(block)]
    return _bytes(network.parameters()) - _bytes(narrow) + int(BYTES[compute.base] * sum(p.numel() for p in narrow))


def _gathered(network: Network) -> int:
    """Bytes of what is whole of a split network at a time: two blocks, of which one is fetched ahead, the gradients of
    one, and what is in no block."""
    blocks = [_bytes(block.parameters()) for block in network.blocks]
    largest = network.blocks[blocks.index(max(blocks))]
    gradients = 4 * sum(p.numel() for p in largest.parameters() if p.requires_grad)
    return 2 * max(blocks) + gradients + _bytes(network.parameters()) - sum(blocks)


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
