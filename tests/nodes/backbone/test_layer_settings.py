"""Files that say how layers are to be run, as newer versions of ComfyUI read them: with which attention.

Older ones read no such thing, so that stand-ins do it here: a module beside the layers, and patches that replace it.
"""

import json

import comfy.lora
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from dcm_pack.nodes.backbone import host_layers
from dcm_pack.nodes.backbone.attention_choice import lost_attention, with_attention
from dcm_pack.nodes.backbone.host import PREFIX
from dcm_pack.nodes.backbone.host_layers import with_attention_of_their_own
from dcm_pack.nodes.run.notes import of_other_nodes
from dcm_pack.nodes.run.plan import Run
from harness.loras import BOTH, Maker, all_of
from harness.worlds import dcm_node, relative, world
from safetensors.torch import save_file
from torch import nn

LAYER = "blocks.1.self_attn"
SETTING = f"{LAYER}.comfy_attention.config"
SAID = torch.tensor(list(json.dumps({"attention": "of_tomorrow"}).encode()), dtype=torch.uint8)


class Preference(nn.Module):
    """A stand-in for the module that says which attention a layer prefers."""

    def __init__(self, function=None):
        super().__init__()
        self.function = function


@pytest.fixture
def this():
    return world("wan")


@pytest.fixture
def model(this, monkeypatch):
    """A MODEL whose layers have such modules, none of which prefers anything."""
    monkeypatch.setattr(host_layers, "_PREFERENCE", Preference)
    model = this.model()
    for block in model.model.diffusion_model.blocks:
        monkeypatch.setitem(block.self_attn._modules, "comfy_attention", Preference())
    return model


@pytest.fixture
def reads_settings(monkeypatch):
    """The host makes patches of keys that end so, and takes them where there is such a module."""
    load, add = comfy.lora.load_lora, ModelPatcher.add_patches

    def load_lora(tensors, *arguments, **options):
        settings = {key: ("config", (tensors[key],)) for key in tensors if key.endswith(".config")}
        return load(tensors, *arguments, **options) | settings

    def add_patches(self, patches, strength_patch=1.0, *arguments):
        settings = {key for key, patch in patches.items() if isinstance(patch, tuple) and patch[0] == "config"}
        rest = {key: patch for key, patch in patches.items() if key not in settings}
        taken = [key for key in settings if "blocks.9." not in key]
        for key in taken if strength_patch else ():
            self.add_object_patch(key.rpartition(".")[0], Preference("of_tomorrow"))
        return [*add(self, rest, strength_patch, *arguments), *taken]

    monkeypatch.setattr(comfy.lora, "load_lora", load_lora)
    monkeypatch.setattr(ModelPatcher, "add_patches", add_patches)


def test_layers_that_prefer_an_attention_are_known(model, monkeypatch):
    assert with_attention_of_their_own(model) == []
    monkeypatch.setattr(model.model.diffusion_model.blocks[1].self_attn.comfy_attention, "function", len)
    assert with_attention_of_their_own(model) == [LAYER]
    model.add_object_patch(f"{PREFIX}blocks.0.self_attn.comfy_attention", Preference(len))
    assert with_attention_of_their_own(model) == ["blocks.0.self_attn", LAYER]


def test_dcm_attention_says_that_it_takes_the_place_of_one(model):
    assert lost_attention(with_attention(model)) == []
    model.add_object_patch(f"{PREFIX}{LAYER}.comfy_attention", Preference(len))
    assert lost_attention(model) == []
    (warning,) = lost_attention(with_attention(model))
    assert f"in {LAYER}, and DCM Attention takes its place: leave that out" in warning
    assert warning in of_other_nodes(Run.of(with_attention(model)))


def test_a_host_without_such_modules_is_not_asked(this, monkeypatch):
    monkeypatch.setattr(host_layers, "_PREFERENCE", None)
    assert with_attention_of_their_own(this.model()) == []


@pytest.mark.parametrize("strengths", [(1.0, 1.0), BOTH, (0.0, 1.0)], ids=["one", "two", "detail alone"])
def test_a_setting_of_a_lora_is_put_in_by_the_host(this, model, reads_settings, put, strengths):
    tensors = all_of(Maker(this.network).pair) | {PREFIX + SETTING: SAID}
    changed, info = put(model, tensors, *strengths)
    assert "10 of 10 keys act; " in info
    assert with_attention_of_their_own(changed) == [LAYER]
    assert with_attention_of_their_own(model) == []


def test_a_setting_for_a_layer_that_is_not_there_is_named(this, model, reads_settings, put):
    lost = PREFIX + SETTING.replace("blocks.1.", "blocks.9.")
    _, info = put(model, all_of(Maker(this.network).pair) | {lost: SAID.clone(), PREFIX + SETTING: SAID}, *BOTH)
    assert f"10 of 11 keys act, not {lost}; " in info


def test_a_lora_of_settings_alone(model, reads_settings, put):
    model, info = put(model, {PREFIX + SETTING: SAID}, 1.0, 1.0)
    assert "1 of 1 keys act; " in info and with_attention_of_their_own(model) == [LAYER]


def test_a_backbone_whose_file_has_settings_runs(this, models, caplog):
    """A host that does not read them leaves them unread, and says so."""
    save_file(dict(this.network.state_dict()) | {SETTING: SAID}, models / "a.safetensors")
    model = dcm_node("DCMLoadBackbone").execute("a.safetensors", "default").args[0]
    unread = f"left 1 tensors of the file unread: {SETTING}" in caplog.text
    assert unread is (host_layers._PREFERENCE is None)
    assert relative(this.sampled(model), this.sampled(this.model())) < 1e-6
