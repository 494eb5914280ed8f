"""These tests run inside ComfyUI's own Python, started by ../test_inside.py; the pack is there as `dcm_pack`."""

import pytest
from harness import in_host

in_host.prepare()

import torch  # noqa: E402  (the host reads its options while it is imported)
import utils.install_util  # noqa: E402, F401  (as in the host's main.py: importing its nodes first would hide this package)

in_host.load_pack()


@pytest.fixture(autouse=True)
def like_the_host():
    """Nodes run in inference mode; one thread sums in one order, so that equal can mean equal."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
