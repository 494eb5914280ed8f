"""Backbone adapters: one file per family over a diffusers transformer. Adding a backbone is adding a file here."""

from ..config import BackboneConfig, ConfigError
from .base import Backbone
from .features import Features
from .wan import WanBackbone

BACKBONES: dict[str, type[Backbone]] = {"wan": WanBackbone}


def build_backbone(config: BackboneConfig) -> Backbone:
    """The adapter a configuration names. Raises ConfigError."""
    if config.name not in BACKBONES:
        raise ConfigError(f"backbone.name={config.name!r} is unknown; there are: {', '.join(BACKBONES)}.")
    return BACKBONES[config.name](config)


__all__ = ["BACKBONES", "Backbone", "Features", "build_backbone"]
