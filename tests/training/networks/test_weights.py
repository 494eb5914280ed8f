"""The trainer takes a backbone however it is laid out, and says what is wrong with one that it cannot take."""

import pytest
import torch
from harness.diffusers_models import MODELS, random_state, released
from safetensors.torch import load_file, save_file

from dcm_core.families.presets import find_family
from training.config import BackboneConfig, ConfigError
from training.registry import build_backbone

KEYMAP = find_family("wan").keymap
STATE = "wan t2v"


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(BackboneConfig(name="wan", family="wan", architecture=MODELS[STATE][1]))


def written(layout: str, folder):
    """The same weights as a file or folder of this layout."""
    state = random_state(STATE)
    comfy, path = KEYMAP.state_to_comfy(state), folder / "backbone.safetensors"
    if layout == "folder with shards":
        for part in (1, 2):
            own = {name: state[name] for name in sorted(state)[part - 1 :: 2]}
            save_file(own, folder / f"diffusion_pytorch_model-0000{part}-of-00002.safetensors")
        return folder
    files = {
        "comfy": comfy,
        "prefixed": {f"model.diffusion_model.{name}": tensor for name, tensor in comfy.items()},
        "diffusers": state,
        "released bundle": released(STATE),
    }
    save_file(files[layout], path)
    return path


@pytest.mark.parametrize("layout", ["comfy", "prefixed", "diffusers", "folder with shards", "released bundle"])
def test_every_layout_gives_the_same_network(layout, backbone, tmp_path):
    loaded = backbone.load(written(layout, tmp_path)).transformer.state_dict()
    state = random_state(STATE)
    assert loaded.keys() == state.keys() and all(loaded[name].equal(state[name]) for name in state)


def test_weights_in_another_precision_are_taken_in_float32(backbone, tmp_path):
    save_file(random_state(STATE, dtype=torch.bfloat16), tmp_path / "x.safetensors")
    loaded = backbone.load(tmp_path / "x.safetensors").transformer.state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def cut(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("blocks.1.")}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            lambda: random_state("wan i2v"),
            "x.safetensors is Wan 2.1 I2V .* does not fit backbone.size and backbone.architecture: patch_embedding",
        ),
        (lambda: cut(random_state(STATE)), "x.safetensors: 27 tensors are missing .blocks.1."),
        (lambda: random_state("hunyuan_video t2v"), "x.safetensors is HunyuanVideo.*no backbone for this"),
        (lambda: {"decoder.conv_in.weight": torch.zeros(2)}, "x.safetensors: .*looks like a VAE"),
    ],
)
def test_what_does_not_fit_is_named(tensors, words, backbone, tmp_path):
    save_file(tensors(), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        backbone.load(tmp_path / "x.safetensors")


def test_a_file_that_is_not_there_or_not_whole_is_named(backbone, tmp_path):
    with pytest.raises(ConfigError, match="no backbone at .*x.safetensors"):
        backbone.load(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ConfigError, match="x.safetensors is not a whole safetensors file"):
        backbone.load(tmp_path / "x.safetensors")


def test_a_teacher_may_be_a_folder(trained, trainer, tmp_path):
    weights = load_file(trained / "teacher" / "teacher.safetensors")
    state = KEYMAP.state_to_diffusers(weights)
    for part in (1, 2):
        own = {name: state[name] for name in sorted(state)[part - 1 :: 2]}
        save_file(own, tmp_path / f"diffusion_pytorch_model-0000{part}-of-00002.safetensors")
    teachers = [trainer("semantic", options).method.teacher for options in ({}, {"teacher": str(tmp_path)})]
    (one, other) = (teacher.network.transformer.state_dict() for teacher in teachers)
    assert all(one[name].equal(other[name]) for name in one)
