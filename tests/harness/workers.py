"""Several workers share a run, as `make test` begins it: which tests stay together, and which come first."""

from __future__ import annotations

import re

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Whoever has nothing left takes the next group."""
    from xdist.scheduler import LoadScopeScheduling  # which a run in one process does without

    class GroupScheduling(LoadScopeScheduling):
        _split_scope = staticmethod(group_of)

    config.option.loadscopereorder = False  # the order is that of the tests
    return GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long first: begun at the end it would keep one worker busy while the others have nothing left.

    A process alone comes last to what runs in the hosts' own Pythons, which it has begun beside itself.
    """
    place = place_of if in_worker(config) else runs_in_host
    items.sort(key=lambda item: place(item.nodeid))


def in_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def runs_in_host(nodeid: str) -> bool:
    return nodeid.startswith("tests/host/test_nodes.py::")


def uses_server(nodeid: str) -> bool:
    return nodeid.startswith(("tests/host/", "tests/browser/")) and not runs_in_host(nodeid)


def group_of(nodeid: str) -> str:
    """All that runs in one host's process, all that one server serves, and else a file, whose tests share fixtures."""
    file, _, test = nodeid.partition("::")
    host = re.match(r"\w+\[(\d[\w.]*)", test)  # its version is the first parameter
    if host and runs_in_host(nodeid):
        return f"process of {host[1]}"
    return f"server of {host[1]}" if host and uses_server(nodeid) else file


def place_of(nodeid: str) -> int:
    """First what starts processes of its own, last the many short files of tests/dcm_core."""
    if runs_in_host(nodeid):
        return 0
    if uses_server(nodeid) or nodeid.startswith("tests/training/run/"):
        return 1
    return 3 if nodeid.startswith("tests/dcm_core/") else 2
