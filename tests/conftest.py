"""What all tests share: the fixtures that need a ComfyUI, what is told of skipped tests, which tests stay together."""

from harness.fixtures import (  # noqa: F401
    checkpoints,
    client,
    dropped,
    host,
    pytest_generate_tests,
    server,
)
from harness.skips import pytest_terminal_summary  # noqa: F401
from harness.workers import pytest_collection_modifyitems  # noqa: F401

collect_ignore = ["nodes"]  # the host's own Python runs them: see host/test_nodes.py
