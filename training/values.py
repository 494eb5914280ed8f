"""Plain values, as YAML gives them, to dataclasses: checked key by key, type by type and bound by bound."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and what to write instead."""


class MissingWeights(ConfigError):
    """Weights that are not there, perhaps because the stage that makes them has not run yet."""


def unknown(key: str, value: object, choices: Iterable[str]) -> ConfigError:
    """The error of a setting whose value is none of the choices."""
    names = list(choices)
    listed = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
    return ConfigError(f"{key}={value!r} is unknown; {f'use {listed}' if names else 'there is none'}.")


@dataclass(frozen=True)
class Bounds:
    """What a number may be, for a type hint: ``Annotated[float, Bounds(0.0, above=True)]``.

    ``above``: the least value itself is not allowed; ``below``: nor the greatest.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, where: str, value: float) -> None:
        """Raises ConfigError for a number outside; NaN and infinity always are."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        if low and high and math.isfinite(value):
            return
        parts = [f"{'above' if self.above else 'at least'} {self.least:g}"] if math.isfinite(self.least) else []
        if math.isfinite(self.most):
            parts.append(f"{'below' if self.below else 'at most'} {self.most:g}")
        raise ConfigError(f"{where}={value} must be {' and '.join(parts) or 'a finite number'}.")


Count = Annotated[int, Bounds(1)]
Whole = Annotated[int, Bounds(0)]
Finite = Annotated[float, Bounds()]
Positive = Annotated[float, Bounds(0.0, above=True)]
Weight = Annotated[float, Bounds(0.0)]
Share = Annotated[float, Bounds(0.0, 1.0)]
Decay = Annotated[float, Bounds(0.0, 1.0, below=True)]


def build(cls: type[T], values: Any, where: str = "") -> T:
    """A dataclass of type ``cls`` from plain values, checked key by key and type by type. Raises ConfigError."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the configuration'} must be a mapping, not {values!r}.")
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in values:
        if key not in hints:
            raise ConfigError(f"Unknown key {_join(where, key)!r}.{_nearest(key, hints)}")
    missing = [f.name for f in dataclasses.fields(cast(Any, cls)) if f.name not in values and _required(f)]
    if missing:
        raise ConfigError(f"{where or 'the configuration'} needs {', '.join(missing)}.")
    return cls(**{key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = _convert(arguments[0], value, where)
        hint.__metadata__[0].check(where, value)
        return value
    if origin is Literal:
        if value not in arguments:
            raise unknown(where, value, arguments)
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a mapping, not {value!r}.")
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, not {value!r}.")
        if origin is tuple and len(value) != len(arguments):
            raise ConfigError(f"{where} must be a list of {len(arguments)}, not {value!r}.")
        return origin(_convert(arguments[0], item, where) for item in value)
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-5 as a string
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value


def override(values: dict, text: str) -> None:
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
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} has a value that is not valid YAML: {error}") from None


def _nearest(key: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(str(key), list(known), 1, 0.5)
    return f" Did you mean {matches[0]!r}?" if matches else f" Known keys: {', '.join(known)}."


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def plain(value: Any) -> Any:
    """Nested values with tuples as lists, as YAML has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)
