"""What all tests share: the fixtures that need a ComfyUI, how workers share a run, what is told of skipped tests."""

from harness.fixtures import (  # noqa: F401
    checkpoints,
    client,
    dropped,
    host,
    pytest_generate_tests,
    server,
)
from harness.node_runs import node_runs  # noqa: F401
from harness.skips import pytest_terminal_summary  # noqa: F401
from harness.workers import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401

collect_ignore = ["nodes"]  # the host's own Python runs them: see harness/node_runs.py
