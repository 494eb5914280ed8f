"""Training methods: one file each. A method owns its losses and its roles and returns a loss map."""

from ..config import ConfigError
from .base import Method
from .detail import Detail
from .lcm import LCM
from .pcm import PCM
from .semantic import Semantic
from .teacher import Teacher

METHODS: dict[str, type[Method]] = {
    "teacher": Teacher,
    "semantic": Semantic,
    "detail": Detail,
    "lcm": LCM,
    "pcm": PCM,
}


def find_method(name: str) -> type[Method]:
    """The class of a method. Raises ConfigError."""
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is unknown; there are: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Method", "find_method"]
