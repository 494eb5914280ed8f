"""Several workers share the tests, and no fixture that is dear is made by two of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from harness.hosts import Host
from harness.workers import pytest_collection_modifyitems

NEW, OLD = (Host(Path("ComfyUI"), version, None) for version in ("0.33.0", "0.3.64"))


def item(file: str, *fixtures: str, host: Host | None = None) -> SimpleNamespace:
    marks: list[pytest.MarkDecorator] = []
    call = SimpleNamespace(params={"host": host})
    return SimpleNamespace(
        location=(file, 0, ""), fixturenames=fixtures, callspec=call, marks=marks, add_marker=marks.append
    )


def groups(*items: SimpleNamespace) -> list[str]:
    pytest_collection_modifyitems(list(items))
    return [mark.args[0] for each in items for mark in each.marks]


def test_one_worker_takes_a_file_and_one_all_that_a_server_serves():
    page, shapes = (item(file, "host", "server", host=NEW) for file in ("page.py", "shapes.py"))
    older = item("page.py", "host", "server", host=OLD)
    first, second = item("nodes.py", "host", host=NEW), item("nodes.py", "host", host=OLD)
    found = groups(page, shapes, older, first, second)
    assert found[0] == found[1] != found[2] and found[3] == found[4] not in found[:3]


def test_without_a_comfyui_its_tests_are_shared_all_the_same():
    assert groups(item("page.py", "host", "server"))
