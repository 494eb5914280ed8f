"""These tests run inside ComfyUI's own Python, started by ../harness/node_runs.py; the pack is there as `dcm_pack`."""

import asyncio

import pytest
from harness import in_host

in_host.prepare()

import folder_paths  # noqa: E402  (the host reads its options while it is imported)
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


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


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A folder of models/loras for the test's own files."""
    paths, extensions = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path), *paths], extensions))
    return tmp_path


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty models/diffusion_models."""
    _, extensions = folder_paths.folder_names_and_paths["diffusion_models"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], extensions))
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture
def put(loras):
    """(MODEL, info) that DCM LoRA makes with a file of these tensors, at a semantic and a detail strength."""

    from harness.worlds import dcm_node  # asks for the pack, which is there by now

    def put(model, tensors, semantic, detail, name="style.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, loras / name)
        return dcm_node("DCMLora").execute(model, name, semantic, detail)

    return put
