"""Which LoRA files are on a MODEL, as far as the host tells: by what its loaders leave there, and by the graph.

Neither is promised by ComfyUI: the name of what the loaders leave, and of their inputs. To be reread as ``host.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import folder_paths
from comfy.model_patcher import ModelPatcher


def lora_metadata_of(model: ModelPatcher) -> Mapping[str, str]:
    """The metadata of the LoRA that was loaded last of those that have any; nothing in 0.3.64."""
    return model.get_attachment("lora_metadata") or {}


@dataclass(frozen=True)
class LoadedLora:
    """A LoRA file on a MODEL. ``strength``: what it is loaded with; None where nobody tells."""

    path: Path
    strength: float | None


@dataclass(frozen=True)
class RunningNode:
    """A node that runs just now, within the graph that it runs in.

    ``prompt`` is the graph as the server got it: nodes by id, each with its ``inputs`` by name, which are values or
    links [id, output]. Nodes that are bypassed are not in it.
    """

    prompt: Mapping[str, Any] = field(default_factory=dict)
    node_id: str = ""

    @classmethod
    def of(cls, node: type) -> RunningNode:
        """Of the class that the host runs; without its hidden inputs, one that has nothing upstream."""
        hidden: Any = getattr(node, "hidden", None)
        return cls(hidden.prompt or {}, str(hidden.unique_id)) if hidden else cls()

    def loras(self, input_name: str, but: str) -> list[LoadedLora]:
        """The LoRAs that loaders upstream of this input have put on its MODEL, the last one first.

        ``but``: the kind of node that tells of its own LoRAs itself.
        """
        found, seen, node_id = [], set(), self._upstream(self.node_id, input_name)
        while node_id is not None and node_id not in seen:
            seen.add(node_id)
            inputs = self._inputs(node_id)
            loaded = () if self.prompt.get(node_id, {}).get("class_type") == but else _active_loras(inputs)
            paths = [(folder_paths.get_full_path("loras", name), strength) for name, strength in loaded]
            found += [LoadedLora(Path(path), strength) for path, strength in paths if path]
            node_id = self._model_of(node_id)
        return found

    def _inputs(self, node_id: str) -> Mapping[str, Any]:
        """A node's inputs, those that a node for a single value (PrimitiveFloat) is linked to as that value."""
        return {name: self._value(value) for name, value in self.prompt.get(node_id, {}).get("inputs", {}).items()}

    def _value(self, value: Any) -> Any:
        if not _is_link(value):
            return value
        inputs = self.prompt.get(str(value[0]), {}).get("inputs", {})
        return inputs["value"] if inputs.keys() == {"value"} and not _is_link(inputs["value"]) else value

    def _model_of(self, node_id: str) -> str | None:
        """The node that a node's MODEL comes from; None where it may come from several, as behind a switch."""
        found = {name: self._upstream(node_id, name) for name in self._inputs(node_id) if "model" in name}
        linked = {name: above for name, above in found.items() if above is not None}
        return linked.get("model") or (next(iter(linked.values())) if len(linked) == 1 else None)

    def _upstream(self, node_id: str, input_name: str) -> str | None:
        link: Any = self._inputs(node_id).get(input_name)
        return str(link[0]) if _is_link(link) else None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _active_loras(inputs: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """The names in a loader's inputs, with their strengths: ``lora_name``, or a table for each LoRA, as in rgthree's
    loader of several."""
    of_model = [value for name, value in inputs.items() if "strength" in name and "clip" not in name]
    if isinstance(inputs.get("lora_name"), str) and any(of_model or [1]):
        yield inputs["lora_name"], _number(of_model[0]) if len(of_model) == 1 else None
    for value in inputs.values():
        if isinstance(value, Mapping) and "lora" in value and value.get("on", True) and value.get("strength", 1):
            yield str(value["lora"]), _number(value.get("strength"))


def _number(value: Any) -> float | None:
    """None for a link: its value is another node's."""
    return float(value) if isinstance(value, Real) else None
