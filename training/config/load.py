"""From a YAML file and dotted overrides to a configuration, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from .schema import Config
from .section import build


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number; YAML 1.1 itself wants 1.0e-5 and takes the other for a word.

    A key that comes twice is an error: PyYAML would drop the first, with all that stands below it.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert isinstance(node, yaml.MappingNode)
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} comes twice", problem_mark=key.start_mark)
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return node


class _Dumper(yaml.SafeDumper):
    """Writes a word that the loader would read as a number in quotes."""


_TRAINING = Path(__file__).resolve().parents[1]
_NUMBER = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$")
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, [*"+-0123456789"])


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply overrides such as ``stages.semantic.optimizer.lr=1e-5``.

    Raises ConfigError naming all that is wrong, a line each.
    """
    path = Path(path)
    values = read_yaml(path)
    for text in overrides:
        _override(values, text)
    values.setdefault("folder", str(path.absolute().parent))
    return build(Config, values)


def read_yaml(path: Path) -> dict:
    """The settings that a file holds. Raises ConfigError where it holds none."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the YAML file in it, such as {path / 'shapes.yaml'}.")
    try:
        values = _read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.{_shipped(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings.")
    return values


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives an equal Config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def _shipped(path: Path) -> str:
    """A question for the shipped file of the nearest name, or nothing."""
    files = {file.stem: file for file in sorted(_TRAINING.glob("*/*.yaml"))}
    matches = difflib.get_close_matches(path.name.removesuffix(".yaml"), list(files), 1)
    if not matches:
        return ""
    near = files[matches[0]]
    return f" Did you mean {near.relative_to(Path.cwd()) if near.is_relative_to(Path.cwd()) else near}?"


def _read(text: str) -> object:
    return yaml.load(text, _Loader)


def _override(values: dict, text: str) -> None:
    """Apply an override such as ``data.batch_size=8`` to nested values. Raises ConfigError."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is no override; write it as key.subkey=value.")
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{text!r}: {parent!r} is a single value and has no keys below it.")
    try:
        values[last] = _read(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} has a value that is not valid YAML: {error}") from None
