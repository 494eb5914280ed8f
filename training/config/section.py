"""A section of a configuration: a pydantic model, and what is said where values do not fit it.

Whoever adds a section writes one model: each setting with its type, its bounds and ``Field(description=...)``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigError, unknown
from .described import Node, bounds, described, follow, kind, named

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Settings that belong together. Unknown keys are errors, and a value has to be of its type: 1 is not true."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def build(cls: type[S], values: Any, where: str = "") -> S:
    """A section from plain values. Raises ConfigError naming all that is wrong, a line each.

    ``where``: the full name of the section in its configuration.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(dict.fromkeys(_sentences(cls, error, where)))) from None


def _sentences(cls: type[S], error: ValidationError, where: str) -> Iterator[str]:
    schema = described(cls)
    for found in error.errors():
        path = found["loc"]
        if found["type"] == "missing":
            *path, key = path
            if "properties" in follow(schema, path)[1]:
                yield f"{_full(where, path) or 'the configuration'} needs {key}."
                continue
        known, node = follow(schema, path)
        name = _full(where, known)
        if found["type"] in ("extra_forbidden", "invalid_key"):
            key = str(path[len(known)])
            yield f"Unknown key {_full(name, [key])!r}.{_nearest(key, node['properties'])}"
        else:
            yield _sentence(found, node, name)


def _sentence(found: Any, node: Node, name: str) -> str:
    """What is wrong with the value of a known setting."""
    problem, value = found["type"], found["input"]
    if problem == "value_error":
        return f"{name}: {found['ctx']['error']}" if name else str(found["ctx"]["error"])
    if problem == "literal_error" and named(node):
        return str(unknown(name, value, named(node)))
    bounded = problem == "finite_number" or problem.startswith(("greater_than", "less_than"))
    if bounded and "anyOf" not in node:
        shown = float(value) if node.get("type") == "number" else value
        return f"{name}={shown} must be {bounds(node) or 'a finite number'}."
    if problem.endswith("_type") or "prefixItems" in node or "anyOf" in node:
        return f"{name or 'the configuration'} must be {kind(node)}, not {value!r}."
    return f"{name}={value!r}: {found['msg']}."


def _full(where: str, path: Iterable[str | int]) -> str:
    """The name of a setting; a place in a list is named like the list."""
    return ".".join([*filter(None, [where]), *(str(key) for key in path if not isinstance(key, int))])


def _nearest(key: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(key, list(known), 1, 0.5)
    return f" Did you mean {matches[0]!r}?" if matches else f" Known keys: {', '.join(known)}."
