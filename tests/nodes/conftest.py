"""These tests run inside ComfyUI's own Python, started by ../harness/node_runs.py; the pack is there as `dcm_pack`."""

import asyncio

import pytest
from harness import in_host

in_host.prepare()

import torch  # noqa: E402  (the host reads its options while it is imported)


async def load_nodes():
    extension = await in_host.load_pack().comfy_entrypoint()
    return await extension.get_node_list()


asyncio.run(load_nodes())


@pytest.fixture(autouse=True)
def like_the_host():
    """Nodes run in inference mode; one thread sums in one order, so that equal can mean equal."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
