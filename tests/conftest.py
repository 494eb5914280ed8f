"""The fixtures that need a ComfyUI, shared by the host and the browser tests."""

from harness.fixtures import (  # noqa: F401
    checkpoints,
    client,
    dropped,
    host,
    pytest_generate_tests,
    server,
)

collect_ignore = ["nodes"]  # the host's own Python runs them: see host/test_nodes.py
