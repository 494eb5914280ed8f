"""What a section says of its settings, as pydantic's JSON schema has it: for errors, and for the page of options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

Node = dict[str, Any]  # the part of a JSON schema about one value; "optional" where it may be none

_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_TYPES = {"integer": "int", "number": "float", "string": "str"}


def described(cls: type[BaseModel]) -> Node:
    """The JSON schema of a section, with every section below it in its place."""
    schema = cls.model_json_schema()
    return _inlined(schema, schema.get("$defs", {}))


def _inlined(node: Any, definitions: Node) -> Any:
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    own = {key: _inlined(value, definitions) for key, value in node.items() if key not in ("$defs", "$ref")}
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions) | own
    for several in ("anyOf", "allOf"):
        choices = [choice for choice in own.get(several, ()) if choice.get("type") != "null"]
        if len(choices) == 1:
            optional = {"optional": True} if several == "anyOf" else {}
            return choices[0] | {key: value for key, value in own.items() if key != several} | optional
    return own


def follow(node: Node, path: Sequence[str | int]) -> tuple[Sequence[str | int], Node]:
    """As far as a path leads, and what is said there: pydantic's paths go on into the choices of a union."""
    for depth, key in enumerate(path):
        inner = node.get("properties", {}).get(key)
        if inner is None and isinstance(key, int) and node.get("type") == "array":
            fixed = node.get("prefixItems", ())
            inner = fixed[key] if key < len(fixed) else node.get("items")
        inner = inner or node.get("additionalProperties")
        if not isinstance(inner, dict):
            return path[:depth], node
        node = inner
    return path, node


def bounds(node: Node) -> str:
    """What a number may be: ``at least 0 and below 1``, or nothing where it is free."""
    found = [(words, node[key]) for key, words in _BOUNDS.items() if key in node]
    return " and ".join(f"{words} {limit if isinstance(limit, int) else f'{limit:g}'}" for words, limit in found)


def kind(node: Node) -> str:
    """What a value may be, to follow `must be`: ``of type int``, ``a list of 2``, ``a mapping``; of several choices
    with the bounds of each."""
    if "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        return " or ".join(f"{kind(choice)} {bounds(choice)}".rstrip() for choice in choices)
    if choices := named(node):
        return " or ".join(map(repr, choices))
    if node.get("type") == "array":
        return f"a list of {len(node['prefixItems'])}" if "prefixItems" in node else "a list"
    if node.get("type") == "boolean":
        return "true or false"
    return f"of type {_TYPES[node['type']]}" if node.get("type") in _TYPES else "a mapping"


def named(node: Node) -> list[Any]:
    """The values that a setting chooses from, where they are listed."""
    return [node["const"]] if "const" in node else node.get("enum", [])
