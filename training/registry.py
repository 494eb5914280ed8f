"""What a configuration names is the file of that name: ``methods/NAME.py``, ``backbones/NAME.py``, ``data/NAME.py``.

There is no table to edit. Such a file says in one constant what it brings: ``METHOD``, ``BACKBONE`` or ``DATA``.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from .backbones.base import Backbone
from .config import BackboneConfig, DataConfig
from .data.base import Data
from .methods.base import Method, Setup
from .values import ConfigError, build, unknown


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone adapter that a configuration names. Raises ConfigError."""
    return _brought("backbones", "BACKBONE", "backbone.name", config.name)(config)


def build_data(config: DataConfig) -> Data:
    """The data set that a configuration names. Raises ConfigError."""
    return _brought("data", "DATA", "data.name", config.name)(config)


def build_method(setup: Setup) -> Method:
    """The method of the selected stage, with its options read and its networks built. Raises ConfigError."""
    stage = f"stages.{setup.config.stage}"
    method: type[Method] = _brought("methods", "METHOD", f"{stage}.method", setup.stage.method)
    return method.build(setup, build(method.Options, setup.stage.options, f"{stage}.options"))


def _brought(folder: str, constant: str, key: str, name: str) -> Any:
    """What the file of that name in a folder brings. Raises ConfigError with the names there are."""
    package = import_module(f".{folder}", __package__)
    files = [found.name for found in iter_modules(package.__path__)]

    def brings(file: str) -> Any:
        return getattr(import_module(f".{file}", package.__name__), constant, None)

    brought = brings(name) if name in files else None
    if brought is None:
        known = unknown(key, name, [file for file in files if brings(file) is not None])
        more = getattr(package, "TO_COME", "")
        raise ConfigError(f"{known} {more}".rstrip())
    return brought
