"""Training methods: one file each. A method owns its losses and its roles and returns a loss map."""

from ..config import ConfigError
from .base import Method, Roles
from .teacher import Teacher

METHODS: dict[str, type[Method]] = {"teacher": Teacher}


def find_method(name: str) -> type[Method]:
    """The class of a method. Raises ConfigError."""
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is unknown; there are: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Method", "Roles", "find_method"]
