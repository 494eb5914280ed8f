"""What the nodes' schemas share beside inputs: the pack's link type, folded inputs, and words that find a node."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.v0_0_2 import io

DcmExpert = io.Custom("DCM_EXPERT")


def found_by(schema: io.Schema, *searches: str) -> io.Schema:
    """``schema``, which the search of newer pages also offers for these words. 0.3.64 has no argument for them."""
    schema.search_aliases = list(searches)
    return schema


def advanced(each: io.Input) -> io.Input:
    """``each``, marked as one to fold away. 0.3.64 takes the mark, but not the argument ``advanced`` of newer hosts."""
    each.extra_dict["advanced"] = True
    return each


def set_by_hand(node: type[io.ComfyNode], given: Mapping[str, object]) -> str:
    """What a node's line says of its folded inputs: the ``given`` values that are not the defaults, else nothing."""
    # As the host asked for it: made once more, a loader's would list its folder again.
    schema = node.SCHEMA or node.define_schema()
    folded = [each for each in schema.inputs if "advanced" in each.extra_dict]
    changed = [f"{each.id} {_text(given[each.id])}" for each in folded if given[each.id] != each.default]
    return f"; set: {', '.join(changed)}" if changed else ""


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
