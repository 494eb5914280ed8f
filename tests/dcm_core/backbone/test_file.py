"""One class for every layout: what it says does not depend on how the file is laid out, and is found out once."""

from collections import Counter

import pytest
import torch
from harness.diffusers_models import MODELS, family_of, infos, opened, random_state, released
from safetensors.torch import load_file, save_file

from dcm_core.backbone.bundle import expert_from_bundle
from dcm_core.backbone.file import BackboneFile
from dcm_core.errors import LayoutError
from dcm_core.expert.fingerprint import fingerprint, norm_tensors
from dcm_core.families.keymap import KeyMap
from dcm_core.families.presets import find_family
from dcm_core.files.stream import TensorSource

NAME = "hunyuan_video t2v"


def layouts(name: str):
    """The same backbone in every layout."""
    state = random_state(name)
    comfy = find_family(family_of(name)).keymap.state_to_comfy(state)
    return {
        "diffusers": state,
        "comfy": comfy,
        "prefixed": {f"model.diffusion_model.{key}": value for key, value in comfy.items()},
        "released": released(name),
    }


@pytest.mark.parametrize("name", ["wan i2v", NAME])
def test_shapes_norms_and_fingerprint_are_those_of_the_backbone_in_every_layout(name):
    comfy = layouts(name)["comfy"]
    shapes = {key: tuple(value.shape) for key, value in comfy.items()}
    expected = fingerprint(family_of(name), shapes, norm_tensors(comfy))
    for state in layouts(name).values():
        file = opened(state)
        assert file.shapes == shapes and file.fingerprint == expected
        assert file.norms.keys() == norm_tensors(comfy).keys() != set()
        assert all(file.norms[key].equal(comfy[key]) for key in file.norms)


@pytest.mark.parametrize("name", MODELS)
def test_a_name_is_looked_up_once_however_much_is_asked(name, monkeypatch):
    looked_up = Counter()
    find = KeyMap._find
    monkeypatch.setattr(KeyMap, "_find", lambda self, key, *more: looked_up.update([key]) or find(self, key, *more))
    state = random_state(name)
    for layout in (state, find_family(family_of(name)).keymap.state_to_comfy(state)):
        looked_up.clear()
        file = opened(layout)
        for _ in range(2):
            assert file.shapes and file.norms and file.fingerprint and file.layout.describe()
            assert file.recipes("comfy") and file.recipes("diffusers")
        assert looked_up.keys() <= layout.keys() and set(looked_up.values()) == {1}


def test_the_names_of_a_bundle_are_sorted_by_role():
    bundle = released(NAME)
    prefixed = {f"model.{key}": value for key, value in bundle.items()}
    names = opened(prefixed).names
    module = "transformer_blocks.0.attn.to_q"
    assert names.base[f"{module}.weight"] == f"model.{module}.base_layer.weight"
    assert names.down[module] == f"model.{module}.lora_A.lora1.weight"
    assert names.up[module] == f"model.{module}.lora_B.lora1.weight"
    assert names.twins["proj_out.weight"] == "model.proj_out_lora.weight"
    everything = [there for table in vars(names).values() for there in table.values()]
    assert sorted(everything) == sorted(prefixed)
    # So that a bundle may have a prefix like any other file.
    expert, plain = expert_from_bundle(opened(prefixed)), expert_from_bundle(opened(bundle))
    assert expert.metadata == plain.metadata and expert.layers.keys() == plain.layers.keys()


def test_scales_are_no_weights_of_the_backbone():
    comfy = layouts(NAME)["comfy"]
    scaled = comfy | {"img_in.proj.scale_weight": torch.ones(()), "scaled_fp8": torch.zeros(2)}
    file = opened(scaled)
    assert file.scales.keys() == {"img_in.proj.scale_weight", "scaled_fp8"} and file.layout.scaled
    assert file.shapes == opened(comfy).shapes and not opened(comfy).scales
    assert file.recipes("comfy").keys() == scaled.keys()


def test_another_way_of_reading_is_asked_for_nothing_before_the_first_tensor(tmp_path, monkeypatch):
    state, asked = random_state(NAME), []
    for part in (1, 2):
        own = {key: state[key] for key in sorted(state)[part - 1 :: 2]}
        save_file(own, tmp_path / f"x-0000{part}-of-00002.safetensors")
    monkeypatch.setattr(TensorSource, "read", None)  # not to be used

    def mapped(source):
        asked.append(source.paths)
        return {key: value for path in source.paths for key, value in load_file(path).items()}.__getitem__

    file = BackboneFile.open(tmp_path, mapped)
    assert file.layout.family.name == "hunyuan_video" and file.recipes("comfy") and file.shapes
    assert asked == []
    made = {name: file.build(recipe) for name, recipe in file.recipes("comfy").items()}
    assert len(asked) == 1 and len(asked[0]) == 2
    expected = layouts(NAME)["comfy"]
    assert infos(made) == infos(expected) and all(made[key].equal(expected[key]) for key in made)


@pytest.mark.parametrize("name", ["wan t2v", NAME])
def test_a_bundle_without_pairs_is_a_backbone_without_an_expert(name):
    """As after taking the adapter off: the layers keep the names they had under it."""
    bundle = {key: value for key, value in released(name).items() if ".lora_" not in key}
    file = opened(bundle)
    assert file.layout.kind == "released" and file.layout.rank is None
    assert "without the low-rank pairs" in file.layout.describe()
    assert file.shapes == opened(released(name)).shapes and file.recipes("comfy")
    with pytest.raises(LayoutError, match="no low-rank pairs, so it holds no detail expert.*to-comfy"):
        expert_from_bundle(file)
