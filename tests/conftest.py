"""The fixtures that need a ComfyUI, shared by the host and the browser tests."""

from harness.fixtures import (  # noqa: F401
    checkpoints,
    client,
    dropped,
    host,
    pytest_generate_tests,
    server,
)
