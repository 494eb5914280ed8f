"""Several workers share the tests: none makes what another has made, and what takes long begins first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from harness.workers import group_of, pytest_collection_modifyitems

INSIDE, OLDER = (
    f"tests/host/test_nodes.py::test_node[{host}-test_bake.py::test_name]" for host in ("0.33.0", "0.3.64")
)
SERVED = "tests/host/test_server.py::test_help[0.33.0]"
LONG, SHORT = "tests/training/run/test_long.py::test_run", "tests/dcm_core/test_short.py::test_sum[0.33.0-a]"
USUAL = "tests/training/test_usual.py::test_one[0.33.0]"


@pytest.mark.parametrize(
    "other",
    [
        "tests/browser/test_page.py::test_workflow_opens[0.33.0-shapes]",
        "tests/host/test_workflows.py::test_video[0.33.0-workflows_0.1.0-motion]",
    ],
)
def test_one_worker_has_all_that_a_server_serves(other):
    assert group_of(SERVED) == group_of(other) != group_of(other.replace("0.33.0-", "0.3.64-"))


def test_one_worker_has_all_that_runs_in_a_hosts_process():
    assert group_of(INSIDE) == group_of(INSIDE.replace("test_bake", "test_pack"))
    assert len({group_of(INSIDE), group_of(OLDER), group_of(SERVED)}) == 3


def test_one_worker_has_a_whole_file():
    assert group_of(SHORT) == group_of("tests/dcm_core/test_short.py::test_other") != group_of(LONG)
    assert group_of("tests/browser/test_page.py::test_title[shapes]") == "tests/browser/test_page.py"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SimpleNamespace(workerinput={}), [INSIDE, OLDER, LONG, SERVED, USUAL, SHORT]),
        (SimpleNamespace(), [SHORT, USUAL, LONG, SERVED, INSIDE, OLDER]),
    ],
    ids=["several", "alone"],
)
def test_what_takes_long_begins_first_and_a_process_alone_waits_for_the_hosts_last(config, expected):
    items = [SimpleNamespace(nodeid=nodeid) for nodeid in (SHORT, INSIDE, OLDER, USUAL, LONG, SERVED)]
    pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == expected
