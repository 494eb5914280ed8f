"""The trainer takes a backbone however it is laid out, and says what is wrong with one that it cannot take."""

import pytest
import torch
from harness.diffusers_models import MODELS, family_of, random_state, released
from harness.tiny_backbones import BACKBONES
from safetensors.torch import load_file, save_file

from dcm_core.families.presets import find_family
from training.config import BackboneConfig, ConfigError
from training.registry import build_backbone

KEYMAP = find_family("wan").keymap
STATE = "wan t2v"
LAYOUTS = ["comfy", "prefixed", "diffusers", "folder with shards", "released bundle"]
CASES = [(name, layout) for name in ("wan t2v", "wan i2v", "hunyuan_video t2v") for layout in LAYOUTS]
CASES += [("cogvideox t2v", layout) for layout in LAYOUTS[:-1]]


def adapter(name: str):
    return build_backbone(BackboneConfig(name=name.split()[0], architecture=MODELS[name][1]))


@pytest.fixture(scope="module")
def backbone():
    return adapter(STATE)


def written(name: str, layout: str, folder):
    """The same weights as a file or folder of this layout."""
    state = random_state(name)
    comfy, path = find_family(family_of(name)).keymap.state_to_comfy(state), folder / "backbone.safetensors"
    if layout == "folder with shards":
        for part in (1, 2):
            own = {key: state[key] for key in sorted(state)[part - 1 :: 2]}
            save_file(own, folder / f"diffusion_pytorch_model-0000{part}-of-00002.safetensors")
        return folder
    files = {
        "comfy": comfy,
        "prefixed": {f"model.diffusion_model.{key}": tensor for key, tensor in comfy.items()},
        "diffusers": state,
    }
    save_file(released(name) if layout == "released bundle" else files[layout], path)
    return path


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_layout_gives_the_same_network(name, layout, tmp_path):
    loaded = adapter(name).load(written(name, layout, tmp_path)).transformer.state_dict()
    state = random_state(name)
    assert loaded.keys() == state.keys() and all(loaded[key].equal(state[key]) for key in state)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_what_no_file_holds_is_as_diffusers_makes_it(name, tmp_path):
    """Tables of positions and the like: the network loaded and the one built plainly give the same."""
    tiny = BACKBONES[name]
    plain = tiny.network()
    save_file(plain.transformer.state_dict(), tmp_path / "x.safetensors")
    loaded = tiny.backbone().load(tmp_path / "x.safetensors")
    buffers = dict(plain.named_buffers())
    assert all(buffer.equal(buffers[key]) for key, buffer in loaded.named_buffers())
    assert all(p.requires_grad for p in loaded.parameters())
    x, told, timestep = tiny.noise(), tiny.conditions(), torch.tensor([900.0, 30.0])
    assert loaded.eval()(x, timestep, told)[0].equal(plain(x, timestep, told)[0])


def test_matrices_alone_are_in_bfloat16_and_not_those_of_the_noise_level(tmp_path):
    loaded = adapter(STATE).load(written(STATE, "comfy", tmp_path), torch.bfloat16).transformer.state_dict()
    wide = {key for key, tensor in loaded.items() if tensor.dtype == torch.float32}
    assert {
        "condition_embedder.time_embedder.linear_1.weight",
        "blocks.0.scale_shift_table",
        "blocks.0.attn1.norm_q.weight",
        "blocks.0.attn1.to_q.bias",
    } <= wide
    assert {"blocks.0.attn1.to_q.weight", "patch_embedding.weight", "proj_out.weight"} <= loaded.keys() - wide
    state = random_state(STATE)
    assert all(tensor.equal(state[key].to(tensor.dtype)) for key, tensor in loaded.items())


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


def test_weights_that_were_rounded_to_8_bits_are_taken_and_said(tmp_path, caplog):
    """All that is trained would lie over them, and not over those that they were rounded from."""
    tiny, file = BACKBONES["wan t2v"], tmp_path / "fp8.safetensors"
    state = tiny.backbone().comfy_state(tiny.network())
    save_file(state, file)
    tiny.backbone().load(file)
    assert not caplog.records
    matrices = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items() if tensor.ndim == 2}
    save_file(state | matrices, file)
    tiny.backbone().load(file)
    assert f"holds {len(matrices)} weights that were rounded to 8 bits" in caplog.text
