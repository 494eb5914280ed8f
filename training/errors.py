"""What can be wrong with a configuration; light, so that it can be caught where packages are missing."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and what to write instead."""


class MissingWeights(ConfigError):
    """Weights that are not there, perhaps because the stage that makes them has not run yet."""


class MissingCache(ConfigError):
    """A cache of videos that has not been prepared yet."""


class MisfitExpert(ConfigError):
    """An expert that does not fit the network over which it is to lie."""


class Stopped(Exception):
    """A run was asked to stop, has saved and leaves; the message is for whoever asked."""


def unknown(key: str, value: object, choices: Iterable[object]) -> ConfigError:
    """The error of a setting whose value is none of the choices."""
    names = [str(choice) for choice in choices]
    listed = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
    return ConfigError(f"{key}={value!r} is unknown; {f'use {listed}' if names else 'there is none'}.")
