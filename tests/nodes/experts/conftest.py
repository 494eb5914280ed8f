"""DCM LoRA with files of the test's own."""

import folder_paths
import pytest
from harness.worlds import dcm_node
from safetensors.torch import save_file


@pytest.fixture
def put(tmp_path, monkeypatch):
    """(MODEL, info) that DCM LoRA makes with a file of these tensors, at a semantic and a detail strength."""
    paths, extensions = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path), *paths], extensions))

    def put(model, tensors, semantic, detail, name="style.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
        return dcm_node("DCMLora").execute(model, name, semantic, detail)

    return put
