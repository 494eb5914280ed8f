"""The fixtures that need a ComfyUI, shared by the host and the browser tests; and what was skipped, at the end."""

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
