"""What is said before a run of a compiled network that will fail."""

import importlib

import pytest
import torch
from dcm_pack.nodes.run.plan import Run
from harness.worlds import world


@pytest.fixture
def this():
    return world("wan")


def test_a_compiled_network_that_will_fail_is_said_with_its_cure(this, monkeypatch):
    """Only with Dynamic VRAM, compiled, and where nothing casts weights in the other 16 bits."""
    modules = ("run.notes", "backbone.host_layers")
    notes, host_layers = (importlib.import_module(f"dcm_pack.nodes.{name}") for name in modules)
    management = getattr(host_layers.comfy, "memory_management", None)
    model = this.applied()

    def warned(model):
        return notes.of_compiled_network(Run.of(model, None, cfg=1.0))

    model.model.diffusion_model.to(torch.bfloat16)
    monkeypatch.setattr(model.model, "get_dtype", lambda: torch.float16)
    model.model_options["torch_compile_kwargs"] = {}
    assert not warned(model), "without Dynamic VRAM"
    if management is None:
        return
    monkeypatch.setattr(management, "aimdo_enabled", True)
    (text,) = warned(model)
    assert "stored in torch.bfloat16 and computed in torch.float16" in text and "--bf16-unet" in text
    monkeypatch.setattr(model.model, "manual_cast_dtype", torch.float16)
    assert not warned(model)
    monkeypatch.setattr(model.model, "manual_cast_dtype", None)
    monkeypatch.setattr(model.model, "get_dtype", lambda: torch.bfloat16)
    assert not warned(model)
    monkeypatch.setattr(model.model, "get_dtype", lambda: torch.float16)
    del model.model_options["torch_compile_kwargs"]
    assert not warned(model)
