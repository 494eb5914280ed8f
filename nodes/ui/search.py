"""What people type who look for a node."""

from __future__ import annotations

from comfy_api.v0_0_2 import io


def found_by(schema: io.Schema, *searches: str) -> io.Schema:
    """``schema``, which the search of newer pages also offers for these words. 0.3.64 has no argument for them."""
    schema.search_aliases = list(searches)
    return schema
