"""What files of a backbone hold that a loader may pass over: every case is loaded right, or said."""

import json
import os

import comfy.sd
import folder_paths
import pytest
import torch
from dcm_pack.dcm_core.backbone.file import BackboneFile
from dcm_pack.dcm_core.backbone.quantised import QUANTISED
from harness.worlds import dcm_node, relative, world
from safetensors.torch import save_file

import nodes

READS_METADATA = "metadata" in comfy.sd.load_diffusion_model_state_dict.__code__.co_varnames
PREFIXES = ["diffusion_model.", "transformer.", "module.", "_orig_mod.", "model.diffusion_model.", "net.module."]


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", "DCM")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "DCM"]


def load(name: str):
    folder_paths.filename_list_cache.clear()
    return dcm_node("DCMLoadBackbone").execute(name, "default")[0]


def names() -> list[str]:
    folder_paths.filename_list_cache.clear()
    return dcm_node("DCMLoadBackbone").define_schema().inputs[0].options


def state(family: str = "wan") -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in world(family).network.state_dict().items()}


def scaled(scale: str, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tiny Wan in scaled fp8, with its scales under this name and no marker; and what a header says of it."""
    linear = {name for name, module in world("wan").network.named_modules() if isinstance(module, torch.nn.Linear)}
    stored, layers = {}, {}
    for name, tensor in state().items():
        layer, _, key = name.rpartition(".")
        if layer not in linear or key != "weight":
            stored[prefix + name] = tensor
            continue
        factor = tensor.abs().max() / 448
        stored[prefix + name] = (tensor / factor).to(torch.float8_e4m3fn)
        stored[f"{prefix}{layer}.{scale}"] = factor.reshape(())
        layers[prefix + layer] = {"format": "float8_e4m3fn"}
    return stored, {"_quantization_metadata": json.dumps({"layers": layers})}


def save_shards(tensors: dict[str, torch.Tensor], folder, metadata: dict[str, str] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    for number in (1, 2):
        own = {name: tensors[name] for name in sorted(tensors)[number - 1 :: 2]}
        save_file(own, folder / f"x-0000{number}-of-00002.safetensors", metadata)


def same_weights(one, other) -> bool:
    left, right = (model.model.diffusion_model.state_dict() for model in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[name].float(), right[name].float()) for name in left)


# --- scales ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("sharded", [False, True])
def test_scales_without_their_marker_are_refused(models, scale, sharded):
    stored, _ = scaled(scale)
    if sharded:
        save_shards(stored, models / "a")
    else:
        save_file(stored, models / "a.safetensors")
    with pytest.raises(
        ValueError, match=rf"(?s)a.*left \d+ scales unread .*\.{scale}.*Update ComfyUI, or take the bf16"
    ):
        load("a" if sharded else "a.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "model.diffusion_model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("sharded", [False, True])
def test_scales_that_a_header_speaks_of_are_read_or_refused(models, prefix, sharded):
    stored, metadata = scaled("weight_scale", prefix)
    name = "a" if sharded else "a.safetensors"
    if sharded:
        save_shards(stored, models / "a", metadata)
    else:
        save_file(stored, models / "a.safetensors", metadata)
    if not READS_METADATA:
        with pytest.raises(ValueError, match="quantised as float8_e4m3fn, which this ComfyUI does not know. Update"):
            load(name)
        return
    plain, metadata = scaled("weight_scale")
    save_file(plain, models / "stock.safetensors", metadata)
    stock = nodes.UNETLoader().load_unet("stock.safetensors", "default")[0]
    assert torch.equal(world("wan").sampled(load(name)), world("wan").sampled(stock))


@pytest.mark.skipif(not READS_METADATA, reason="older hosts read no header")
def test_a_header_with_the_names_of_compiled_blocks_is_read(models):
    def compiled(name: str) -> str:
        return f"module.{name}".replace("blocks.1.", "blocks.1._orig_mod.")

    stored, metadata = scaled("weight_scale")
    save_file(stored, models / "stock.safetensors", metadata)
    layers = {compiled(f"{name}."): how for name, how in json.loads(metadata[QUANTISED])["layers"].items()}
    said = {QUANTISED: json.dumps({"layers": {name.removesuffix("."): how for name, how in layers.items()}})}
    save_file({compiled(name): tensor for name, tensor in stored.items()}, models / "a.safetensors", said)
    stock = nodes.UNETLoader().load_unet("stock.safetensors", "default")[0]
    assert torch.equal(world("wan").sampled(load("a.safetensors")), world("wan").sampled(stock))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32], ids=str)
def test_integers_without_scales_are_refused(models, dtype):
    save_file({name: t.to(dtype) if t.ndim == 2 else t for name, t in state().items()}, models / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: \d+ weights are stored as integers .* without scales .*bf16"):
        load("a.safetensors")


def test_shards_with_the_marker_are_loaded_as_one_file_is(models, said):
    stored, _ = scaled("scale_weight")
    layer = next(name for name in stored if name.endswith(".scale_weight")).removesuffix("scale_weight")
    stored |= {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn), f"{layer}scale_input": torch.ones(())}
    save_shards(stored, models / "a")
    save_file(stored, models / "b.safetensors")
    stock = nodes.UNETLoader().load_unet("b.safetensors", "default")[0]
    expected = world("wan").sampled(stock)
    assert torch.equal(world("wan").sampled(load("a")), expected)
    assert torch.equal(world("wan").sampled(load("b.safetensors")), expected)
    assert not [line for line in said() if "unread" in line]


@pytest.mark.skipif(not READS_METADATA, reason="older hosts read the marker's dtype, and store all weights in it")
@pytest.mark.parametrize("marker", [0, 2])
def test_an_old_file_in_scaled_e5m2_is_read_as_such(models, said, marker):
    """With weights that e4m3 has no room for, which newer hosts take all old files for."""
    stored, plain = scaled("scale_weight")[0], state()
    for name in [name for name in stored if name.endswith(".scale_weight")]:
        weight = name.replace(".scale_weight", ".weight")
        factor = plain[weight].abs().max() / 50_000
        stored[name], stored[weight] = factor, (plain[weight] / factor).to(torch.float8_e5m2)
        stored[name.replace("weight", "input")] = torch.ones(())
        plain[weight] = stored[weight].float() * factor
    save_file(stored | {"scaled_fp8": torch.zeros(marker, dtype=torch.float8_e5m2)}, models / "a.safetensors")
    expected = world("wan").sampled(comfy.sd.load_diffusion_model_state_dict(plain))
    assert relative(world("wan").sampled(load("a.safetensors")), expected) <= 1e-5
    assert not [line for line in said() if "unread" in line]


@pytest.mark.parametrize("name", ["cam_encoder.weight", "blocks.0.cam_encoder.weight"])
def test_a_weight_that_the_host_does_not_know_is_no_scale(models, said, name):
    save_file(state() | {name: torch.ones(4, 4)}, models / "a.safetensors")
    load("a.safetensors")
    assert any(f"left 1 tensors of the file unread: {name}" in line for line in said())


def test_other_tensors_left_unread_are_said(models, said):
    save_file(state() | {"blocks.0.self_attn.gate": torch.ones(1)}, models / "a.safetensors")
    load("a.safetensors")
    assert any("left 1 tensors of the file unread: blocks.0.self_attn.gate" in line for line in said())


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
def test_any_prefix_loads(models, family, prefix):
    save_file({prefix + name: tensor for name, tensor in state(family).items()}, models / "a.safetensors")
    assert same_weights(load("a.safetensors"), world(family).model())


def test_names_with_those_of_wrappers_inside_load(models):
    tensors = {name.replace("blocks.1.", "blocks.1._orig_mod."): tensor for name, tensor in state().items()}
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, models / "a.safetensors")
    assert same_weights(load("a.safetensors"), world("wan").model())


@pytest.mark.parametrize("name", ["a.SafeTensors", "a.sft", "a.SFT"])
def test_every_spelling_of_the_ending_is_offered_and_loads(models, name):
    save_file({f"module.{key}": tensor for key, tensor in state().items()}, models / name)
    assert name in names()
    assert same_weights(load(name), world("wan").model())


def test_shards_of_every_spelling_load(models):
    save_shards(state(), models / "a")
    for shard in list((models / "a").iterdir()):
        shard.rename(shard.with_suffix(".SafeTensors"))
    assert "a" in names()
    assert same_weights(load("a"), world("wan").model())


@pytest.mark.parametrize("rename", [str.upper, lambda name: name.replace("0000", "")], ids=["upper case", "no zeros"])
def test_shards_numbered_otherwise_load(models, rename):
    save_shards(state(), models / "a")
    for shard in list((models / "a").iterdir()):
        shard.rename(shard.with_name(rename(shard.name)))
    assert names() == ["a"]
    assert same_weights(load("a"), world("wan").model())


def test_files_that_were_written_again_are_loaded_again(models):
    """Also one of several shards."""
    save_file(state(), models / "alone.safetensors")
    (models / "whole").mkdir()
    parts = [models / "whole" / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, part in enumerate(parts):
        save_file(dict(list(state().items())[number::2]), part)
    node = dcm_node("DCMLoadBackbone")
    assert {"alone.safetensors", "whole"} <= {*names()}
    for name, file in (("alone.safetensors", models / "alone.safetensors"), ("whole", parts[1])):
        first = node.fingerprint_inputs(name, weight_dtype="default")
        assert node.fingerprint_inputs(name, weight_dtype="default") == first
        os.utime(file, (1, 1))
        assert node.fingerprint_inputs(name, weight_dtype="default") != first


def test_two_sets_of_shards_in_one_folder_are_both_offered(models):
    save_shards(state(), models / "a")
    for shard in list((models / "a").iterdir()):
        shard.rename(shard.with_name(shard.name.replace("x-", "y-")))
    save_shards(state("hunyuan_video"), models / "a")
    save_shards(state(), models / "alone")
    save_shards(state(), models)
    found = names()
    first = [f"a/{stem}-00001-of-00002.safetensors" for stem in "xy"]
    assert sorted(found) == [*first, "alone", "x-00001-of-00002.safetensors"]
    for name, family in zip(found, ["hunyuan_video", "wan", "wan", "wan"], strict=True):
        assert same_weights(load(name), world(family).model())


# --- files that are not whole, or not a backbone --------------------------------------------------------------------


@pytest.mark.parametrize("quantised", [False, True])
def test_tensors_of_another_shape_are_named_with_both_shapes(models, quantised):
    tensors = state()
    if quantised:
        tensors = scaled("scale_weight")[0] | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    like = tensors["blocks.1.ffn.0.weight"]
    rows, columns = like.shape
    tensors["blocks.1.ffn.0.weight"] = torch.ones(rows, columns + 1).to(like.dtype)
    save_file(tensors, models / "a.safetensors")
    expected = rf"a.safetensors: 1 tensors .*blocks.1.ffn.0.weight \[{rows}, {columns + 1}\] for \[{rows}, {columns}\]"
    with pytest.raises(ValueError, match=expected):
        load("a.safetensors")


def test_a_missing_tensor_of_a_block_is_named(models):
    tensors = state()
    del tensors["blocks.1.ffn.0.weight"]
    save_file(tensors, models / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: 1 tensors are missing \(blocks.1.ffn.0.weight\).*Download"):
        load("a.safetensors")


def test_a_download_that_stopped_is_refused(models):
    save_file(state(), models / "a.safetensors")
    whole = (models / "a.safetensors").read_bytes()
    (models / "a.safetensors").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(ValueError, match="a.safetensors: .*nothing but zeros.*Download it again"):
        load("a.safetensors")


@pytest.mark.parametrize(
    ("name", "says"),
    [("token_embedding.weight blocks.0.attn.q.weight", "a T5 text encoder"), ("decoder.conv1.weight", "a VAE")],
)
def test_other_files_under_their_pth_names(models, name, says):
    torch.save({each: torch.ones(2, 2) for each in name.split()} | {"other": torch.ones(2)}, models / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth is no backbone that ComfyUI knows: it looks like {says}.*Load"):
        load("a.pth")


def test_inspect_and_the_node_take_the_same_files(models):
    for number, prefix in enumerate(PREFIXES):
        path = models / f"{number}.safetensors"
        save_file({prefix + name: tensor for name, tensor in state().items()}, path)
        assert BackboneFile.open(path).recipes("comfy").keys() == state().keys()


@pytest.mark.parametrize("name", ["a.SafeTensors", "a.sft"])
@pytest.mark.parametrize("kind", ["loras", "dcm"])
def test_experts_of_every_spelling_are_offered_and_load(tmp_path, monkeypatch, kind, name):
    from dcm_pack.dcm_core.expert.file import save_expert

    _, extensions = folder_paths.folder_names_and_paths[kind]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], extensions))
    folder_paths.filename_list_cache.clear()
    save_expert(tmp_path / name, world("wan").detail)
    assert name in dcm_node("DCMLoadExpert").define_schema().inputs[0].options
    assert dcm_node("DCMLoadExpert").execute(name)[0].layers.keys() == world("wan").detail.layers.keys()
