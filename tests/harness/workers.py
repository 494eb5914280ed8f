"""What one of several workers of pytest-xdist takes whole: each worker makes the fixtures of its tests anew."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one server, whose start is dear, and else all of a file: for ``--dist loadgroup``."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    if "server" not in getattr(item, "fixturenames", ()):
        return item.location[0]
    host = item.callspec.params["host"]
    return f"server {host.version if host else 'nowhere'}"
