"""Write docs/training_options.md, the page of every option of the trainer, as its models say them.

python scripts/options.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "training_options.md"
HEAD = """\
# Options of the trainer

Written by `python scripts/options.py` from the trainer's own models. An option stands in the YAML file of a run, or on
the command line by its full name: `python training/distill.py --config FILE stages.semantic.optimizer.lr=1e-5`. `NAME`
is a stage's own name, and none is `null` in YAML.
"""


def page() -> str:
    """The whole page."""
    from training.config import Config
    from training.config.described import described
    from training.registry import brought

    parts = [HEAD, "## A run", *section("", described(Config))]
    parts.append("## Methods: `stages.NAME.method`")
    for name, method in brought("methods", "METHOD").items():
        parts += [f"### `method: {name}`", getdoc(method), *section("stages.NAME.options", described(method.Options))]
    parts.append("## Data sets: `data.name`")
    for name, data in brought("data", "DATA").items():
        parts += [f"### `name: {name}`", getdoc(data), *section("data.options", described(data.Options))]
    parts.append("## Backbones: `backbone.name`")
    for name, backbone in brought("backbones", "BACKBONE").items():
        parts += [f"### `name: {name}`", getdoc(backbone), architecture(backbone.architecture)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(name: str, node: Mapping[str, Any]) -> Iterator[str]:
    """A table of the options of a section, then the sections below it, each under its full name."""
    inner = {key: child for key, child in node["properties"].items() if below(child)}
    rows = [
        (f"`{key}`", default(node, key), values(child), child["description"])
        for key, child in node["properties"].items()
        if key not in inner
    ]
    yield table(("option", "default", "value", "what"), rows)
    for key, child in inner.items():
        full = f"{name}.{key}".strip(".") + ("" if "properties" in child else ".NAME")
        yield f"### `{full}`"
        yield child["description"]
        yield from section(full, below(child))


def below(node: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that an option holds, or several of under names of their own."""
    inner = node if "properties" in node else node.get("additionalProperties")
    return inner if isinstance(inner, dict) and "properties" in inner else None


def default(node: Mapping[str, Any], key: str) -> str:
    if key in node.get("required", ()):
        return "to be given"
    child = node["properties"][key]
    empty = {"object": {}, "array": []}.get(child.get("type"))
    return shown(child.get("default", empty))


def values(node: Mapping[str, Any]) -> str:
    """What may be written, in words."""
    from training.config.described import bounds, kind

    words = " ".join(filter(None, [kind(node).removeprefix("of type ").replace("'", "`"), bounds(node)]))
    return f"{words}, or none" if node.get("optional") else words


def architecture(arguments: Mapping[str, Any]) -> str:
    return table(("`backbone.architecture`", "default"), [(f"`{key}`", shown(each)) for key, each in arguments.items()])


def shown(value: Any) -> str:
    """A value as YAML has it."""
    return "none" if value is None else f"`{json.dumps(value)}`"


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"options: {PAGE.relative_to(ROOT)} is as the models say")
