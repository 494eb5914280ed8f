"""What the adapters share: networks of one of diffusers' classes are built, adapted, read and written."""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dcm_core.expert.layers import Expert, Layer
from dcm_core.families.keymap import KeyMap, Shapes
from dcm_core.families.presets import find_family
from dcm_core.families.relatives import Channels

from ..config import BackboneConfig
from ..data.base import Data
from ..data.buckets import Size
from ..errors import ConfigError, unknown
from ..export import backbone_fingerprint
from ..networks import adapter, exchange
from ..networks.adapter import Rank
from ..networks.network import Network
from ..networks.weights import load_weights, opened_backbone, parameters_without_memory

Arguments = Mapping[str, Any]
logger = logging.getLogger(__name__)


class Backbone(ABC):
    """An adapter over a diffusers transformer. What is a class's own stands in attributes:

    * ``transformer``: diffusers' class; ``network``: how it is called; ``keymap``, ``channels``: of its families
    * ``sizes``: arguments of the published models by name, of which the first is taken where none is named;
      ``architecture``: those that all of them share
    * ``takes_image``: can it be trained where an image is given?
    * ``usual``: the clips that it was trained with; ``text_tokens``: the length of their captions
    """

    transformer: ClassVar[Callable[..., nn.Module]]
    network: ClassVar[type[Network]]
    keymap: ClassVar[KeyMap]
    channels: ClassVar[staticmethod[[Shapes], Channels]]
    sizes: ClassVar[Mapping[str, Arguments]] = {}
    architecture: ClassVar[Arguments] = {}
    takes_image: ClassVar[bool] = False
    usual: ClassVar[Size]
    text_tokens: ClassVar[int]

    def __init__(self, config: BackboneConfig):
        self.family, record = config.family, find_family(config.family)
        if record.keymap is not self.keymap:
            raise ConfigError(f"backbone.family: {record.title} has another network than backbone.name={config.name}.")
        if config.size and config.size not in self.sizes:
            raise unknown("backbone.size", config.size, self.sizes)
        size = config.size or next(iter(self.sizes), "")
        self.arguments = {**self.sizes.get(size, {}), **self.architecture, **config.architecture}

    @property
    def told_of_image(self) -> frozenset[str]:
        """What of ``Conditions`` its networks are told of a first frame: nothing where they make videos of text."""
        defaults = {name: each.default for name, each in signature(self.transformer).parameters.items()}
        given = {**defaults, **self.arguments}
        beside = given["in_channels"] > (given["out_channels"] or given["in_channels"])
        told = {"image": beside, "vision": given.get("image_dim") is not None}
        return frozenset(name for name, wanted in told.items() if wanted)

    def build(self, seed: int) -> Network:
        """A network with random weights that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network(self._made())

    def load(self, path: str | Path, dtype: torch.dtype = torch.float32) -> Network:
        """A network with the weights of a backbone file of any layout, in memory for itself and its largest tensor.

        ``dtype``: what frozen matrices are held in. Raises ConfigError where the weights do not fit.
        """
        with opened_backbone(path, self.keymap) as file:
            self._refuse_image(file.shapes, f"{path} is {file.layout.variant}")
            if rounded := sum(info.dtype.startswith("F8") for info in file.infos.values()):
                logger.warning(
                    "%s holds %d weights that were rounded to 8 bits, and they will be the teacher's: name the file "
                    "in 16 bits where there is one.", path, rounded,
                )  # fmt: skip
            with parameters_without_memory():
                transformer = self._made()
            load_weights(transformer, file, dtype)
        return self.network(transformer)

    def latents(self, network: Network, size: Size) -> tuple[int, int, int, int]:
        """[C, T, H, W] of a clip of this size in pixels."""
        config = network.transformer.config
        channels = config.out_channels or config.in_channels
        edge = _edge(channels)
        if (size.frames - 1) % 4 or size.height % edge or size.width % edge:
            raise ConfigError(f"{size}: clips have 4k + 1 frames, and edges that are multiples of {2 * edge} pixels.")
        return channels, (size.frames - 1) // 4 + 1, size.height // edge, size.width // edge

    def size(self, latents: tuple[int, int, int, int]) -> Size:
        """In pixels, of a clip of latents [C, T, H, W]."""
        channels, frames, height, width = latents
        return Size(4 * (frames - 1) + 1, _edge(channels) * height, _edge(channels) * width)

    @staticmethod
    def feature_shape(network: Network, stride: int) -> tuple[int, int]:
        """(channels of a token, number of layers of features that the network gives at this stride)."""
        return network.transformer.proj_out.in_features, len(network.tapped[::stride])

    def add_adapter(self, network: Network, name: str, rank: Rank, alpha: float, seed: int) -> None:
        """Freeze the network and give it an adapter, over those that act now: pairs of low rank, and twins of the
        layers that a detail expert replaces; or twins alone, of every linear layer too. Its output stays."""
        low_rank, replaced = self.keymap.detail_layers(self._shapes(network.transformer))
        adapted = [each for layer in low_rank for each in self.keymap.adapted(layer)]
        replaced = [self.keymap.module_to_diffusers(layer) for layer in replaced]
        adapter.add_adapter(network.transformer, network.acting, name, adapted, replaced, rank, alpha, seed)

    def adapter_layers(self, network: Network, adapters: Sequence[str]) -> dict[str, Layer]:
        """What the last of these adapters changes over the others, by ComfyUI module name; nothing for no adapter."""
        layers = adapter.adapter_layers(network.transformer, adapters)
        return exchange.comfy_layers(network.transformer, layers, self.keymap)

    def lay(self, network: Network, expert: Expert, name: str) -> None:
        """Give the network a low-rank expert as a frozen adapter. Raises ConfigError where it is none or misfits."""
        exchange.lay_expert(network.transformer, network.acting, name, expert, self.keymap)

    def apply(self, network: Network, expert: Expert) -> None:
        """Add an expert to the weights of a network without adapters. Raises ConfigError where it does not fit."""
        exchange.apply_expert(network.transformer, expert, self.keymap)

    def comfy_state(self, network: Network) -> dict[str, Tensor]:
        """The weights of a network below its adapters, under ComfyUI's names."""
        return exchange.comfy_state(network.transformer, self.keymap)

    def fingerprint(self, network: Network) -> str:
        """Of the weights of a network below its adapters. Of matrices it takes the shapes alone, so none is copied."""
        state = adapter.frozen_state(network.transformer)
        state = {name: tensor if tensor.ndim == 1 else tensor.to("meta") for name, tensor in state.items()}
        return backbone_fingerprint(self.family, self.keymap.state_to_comfy(state))

    def _made(self) -> nn.Module:
        """A transformer of diffusers. Raises ConfigError for one that cannot be trained here."""
        model = self.transformer(**self.arguments)
        self._refuse_image(self._shapes(model), "backbone.architecture")
        return model

    def _refuse_image(self, shapes: Shapes, what: str) -> None:
        found = type(self).channels(shapes)
        if not self.takes_image and found.inputs != found.outputs:
            title = find_family(self.family).title
            raise ConfigError(
                f"{what}: image to video of {title} cannot be trained here. Take a text-to-video backbone."
            )

    def _shapes(self, model: nn.Module) -> dict[str, tuple[int, ...]]:
        """Of its weights, under ComfyUI's names."""
        shapes = {name: tensor.detach().to("meta") for name, tensor in adapter.frozen_state(model).items()}
        return {name: tuple(tensor.shape) for name, tensor in self.keymap.state_to_comfy(shapes).items()}


def check_first_frames(backbone: Backbone, data: Data) -> None:
    """Raises ConfigError where a backbone is told a first frame and the data has none, or the other way round."""
    wanted, there = backbone.told_of_image, data.told_of_image
    if wanted and not there:
        raise ConfigError(
            "This backbone makes videos of an image, and the data set has no first frames: prepare it with "
            "--image-to-video."
        )
    if there and not wanted:
        raise ConfigError(
            "The data set was prepared with --image-to-video, and this backbone makes videos of text alone: choose an "
            "image-to-video backbone with backbone.size, or prepare the videos without."
        )
    if wanted != there:
        does = "sees the first frame through CLIP" if "vision" in wanted else "is not told what CLIP sees"
        raise ConfigError(
            f"This backbone {does}, and the data set was prepared for one that differs in this: prepare it with the "
            "--weights of this backbone's own pipeline."
        )


def _edge(channels: int) -> int:
    """Pixels of a latent's edge: of the autoencoder of Wan 2.2's 5B twice that of the others."""
    return 16 if channels == 48 else 8
