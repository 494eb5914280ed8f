"""What a file says of how its weights are quantised, and what stands beside them."""

import json
from math import gcd
from types import SimpleNamespace

import pytest
import torch
from harness.diffusers_models import infos, random_state, with_header
from safetensors.torch import save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.backbone.quantised import QUANTISED
from dcm_core.convert.command import main
from dcm_core.errors import LayoutError
from dcm_core.families.presets import find_family
from dcm_core.files.format import TensorInfo

NAMES = ("wan t2v", "hunyuan_video t2v")


def comfy(name: str = "wan t2v") -> dict[str, torch.Tensor]:
    return find_family(name.split()[0]).keymap.state_to_comfy(random_state(name))


def matrices(state) -> list[str]:
    """Those that quantised copies have in another form."""
    return [name for name, tensor in state.items() if "blocks." in name and tensor.ndim == 2 and ".weight" in name]


def scaled() -> dict[str, TensorInfo]:
    """In fp8, with a scale for each matrix."""
    state = infos(comfy())
    for name in matrices(comfy()):
        state |= {name: TensorInfo("F8_E4M3", state[name].shape), f"{name}_scale": TensorInfo("F32", ())}
    return state


def header_of(infos, *layers: dict) -> SimpleNamespace:
    headers = [{"a": "b", QUANTISED: json.dumps({"layers": each})} for each in layers]
    return SimpleNamespace(infos=infos, metadata={"a": "b"}, headers=headers, read=None)


# As a compiled network, one in FSDP and one with checkpointed activations call their parameters.
RENAMED = {
    "a prefix": lambda name: f"module.{name}",
    "a compiled network": lambda name: f"_orig_mod.{name}",
    "compiled blocks": lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."),
    "both": lambda name: f"model._orig_mod.{name}".replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace("blocks.1.", "blocks.1._fsdp_wrapped_module."),
}


@pytest.mark.parametrize("rename", RENAMED.values(), ids=RENAMED)
def test_a_header_names_layers_as_the_tensors_are_named_once_prefix_and_wrappers_are_off(rename):
    layers = ["blocks.0.ffn.0", "blocks.1.ffn.0"]
    said = [{rename(layers[0]): {"format": "x"}}, {rename(layers[1]): {"format": "y"}}]
    file = BackboneFile(header_of({rename(key): info for key, info in scaled().items()}, *said))
    expected = {layers[0]: {"format": "x"}, layers[1]: {"format": "y"}}
    assert file.metadata["a"] == "b" and json.loads(file.metadata[QUANTISED]) == {"layers": expected}
    assert file.formats == ["x", "y"]


def test_a_header_without_the_prefix_of_the_tensors_is_understood_too():
    state = {f"module.{key}": info for key, info in scaled().items()}
    file = BackboneFile(header_of(state, {"blocks.0.ffn.0": {"format": "y"}}))
    assert json.loads(file.metadata[QUANTISED]) == {"layers": {"blocks.0.ffn.0": {"format": "y"}}}


@pytest.mark.parametrize("said", ["[]", "{", '{"layers": {"head.head": 3}}', "null"])
def test_a_header_that_cannot_be_read_is_refused(said):
    source = header_of(infos(comfy()))
    source.headers = [{QUANTISED: said}]
    with pytest.raises(LayoutError, match="cannot be read. Download"):
        BackboneFile(source)


@pytest.mark.parametrize("in_header", [False, True])
def test_a_layer_that_is_said_to_be_quantised_needs_its_scale(in_header):
    state, layer = scaled(), "blocks.1.ffn.0"
    if not in_header:
        state[f"{layer}.comfy_quant"] = TensorInfo("U8", (30,))
    source = header_of(state, {layer: {"format": "x"}} if in_header else {})
    BackboneFile(source)
    del state[f"{layer}.weight_scale"]
    with pytest.raises(LayoutError, match=f"1 layers are quantised, but have no scales .{layer}.*Download"):
        BackboneFile(source)


def test_the_layers_of_newer_files_say_their_format_themselves():
    conf = torch.tensor(list(b'{"format": "x"}'), dtype=torch.uint8)
    state = comfy() | {"blocks.0.ffn.0.weight_scale": torch.ones(2), "blocks.0.ffn.0.comfy_quant": conf}
    source = SimpleNamespace(infos=infos(state), metadata={}, headers=[{}], read=state.__getitem__)
    assert BackboneFile(source).formats == ["x"]
    state["blocks.0.ffn.0.comfy_quant"] = conf[:5]
    with pytest.raises(LayoutError, match="blocks.0.ffn.0.comfy_quant cannot be read. Download"):
        _ = BackboneFile(source).formats


# --- weights of several numbers in a byte -----------------------------------------------------------------------------

# dtype of the weight, in how many bits it holds a number, and what stands beside it for so many rows and columns.
STORED = {
    "fp8": ("F8_E4M3", 8, lambda rows, columns: {"weight_scale": ()}),
    "mxfp8": ("F8_E4M3", 8, lambda rows, columns: {"weight_scale": (rows, 1)}),
    "int8": ("I8", 8, lambda rows, columns: {"weight_scale": ()}),
    "int8 by a scale in a list": ("I8", 8, lambda rows, columns: {"weight_scale": (1,)}),
    "int8 by rows": ("I8", 8, lambda rows, columns: {"weight_scale": (rows, 1)}),
    "nvfp4": ("U8", 4, lambda rows, columns: {"weight_scale": (rows, 1), "weight_scale_2": ()}),
    "4 bits, rotated": ("I8", 4, lambda rows, columns: {"weight_scale": (rows,)}),
    "4 bits by groups of 16": ("I8", 4, lambda rows, columns: grouped(rows, columns, 16)),
    "4 bits by groups of 32": ("I8", 4, lambda rows, columns: grouped(rows, columns, 32)),
    "6 bits by groups of 16": ("I8", 6, lambda rows, columns: grouped(rows, columns, 16)),
    "6 bits by groups of 32": ("U8", 6, lambda rows, columns: grouped(rows, columns, 32)),
}


def grouped(rows: int, columns: int, group: int) -> dict[str, tuple[int, ...]]:
    return {"weight_s_rel": (rows, columns // gcd(group, columns)), "weight_s_channel": (rows,)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored", STORED)
def test_a_packed_backbone_has_the_shapes_and_numbers_of_the_plain_one(name, stored):
    dtype, bits, beside = STORED[stored]
    state = infos(comfy(name))
    plain = with_header(state)
    for key in matrices(comfy(name)):
        rows, columns = state[key].shape
        state[key] = TensorInfo(dtype, (rows, columns * bits // 8))
        sizes = beside(rows, columns)
        state |= {f"{key.removesuffix('weight')}{end}": TensorInfo("F32", size) for end, size in sizes.items()}
    file = with_header(state)
    assert file.shapes == plain.shapes and file.layout.parameters == plain.layout.parameters
    assert file.layout.variant == plain.layout.variant and file.layout.scaled


# --- integers without scales ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["I8", "U8", "I16", "I32", "I64", "U16", "BOOL"])
@pytest.mark.parametrize("layout", ["comfy", "diffusers"])
def test_integer_weights_without_scales_are_refused(layout, dtype):
    state = comfy() if layout == "comfy" else random_state("wan t2v")
    found = infos(state) | {name: TensorInfo(dtype, tuple(state[name].shape)) for name in matrices(state)}
    with pytest.raises(
        LayoutError, match=rf"\d+ weights are stored as integers \({dtype}\) without scales .*bf16 file"
    ):
        with_header(found)


@pytest.mark.parametrize("left", [None, "input_scale", "comfy_quant"])
def test_one_layer_that_lost_its_scale_is_named(left):
    state, names = infos(comfy()), matrices(comfy())
    for name in names:
        state[name] = TensorInfo("I8", state[name].shape)
        state[f"{name}_scale"] = TensorInfo("F32", ())
    with_header(state)
    del state[f"{names[3]}_scale"]
    if left:
        state[f"{names[3].removesuffix('weight')}{left}"] = TensorInfo("F32", ())
    with pytest.raises(LayoutError, match=f"1 weights are stored as integers .*{names[3]}"):
        with_header(state)


@pytest.mark.parametrize(
    "command",
    [
        "inspect integers.safetensors",
        "to-comfy integers.safetensors out.safetensors",
        "to-diffusers integers.safetensors out.safetensors",
        "export integers.safetensors out.safetensors --semantic whole",
        "export integers.safetensors out.safetensors --semantic difference --base base.safetensors",
        "export base.safetensors out.safetensors --semantic difference --base integers.safetensors",
        "export base.safetensors out.safetensors --semantic low-rank --rank 2 --base integers.safetensors",
    ],
)
def test_no_command_takes_integers_without_scales(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    save_file(comfy(), "base.safetensors")
    save_file(comfy() | {name: comfy()[name].to(torch.int8) for name in matrices(comfy())}, "integers.safetensors")
    assert main(command.split()) == 1
    assert "integers.safetensors: " in (said := capsys.readouterr().err) and "without scales" in said
    assert not (tmp_path / "out.safetensors").exists()


# --- layers that are stored otherwise than they are said to be --------------------------------------------------------

LAYER = "blocks.1.ffn.0"
# dtype of a weight of 128 rows and 64 columns, its columns as stored, and what stands beside it.
AS_SAID = {
    "float8_e4m3fn": ("F8_E4M3", 64, {"weight_scale": ()}),
    "float8_e5m2": ("F8_E5M2", 64, {"weight_scale": (128, 1)}),
    "mxfp8": ("F8_E4M3", 64, {"weight_scale": (128, 4)}),
    "nvfp4": ("U8", 32, {"weight_scale": (128, 4), "weight_scale_2": ()}),
    "int8_tensorwise": ("I8", 64, {"weight_scale": (128, 1)}),
    "convrot_w4a4": ("I8", 32, {"weight_scale": (128,)}),
    "asym_w4a8_int8": ("I8", 32, {"weight_s_rel": (128, 4), "weight_s_channel": (128,), "weight_codebook": (16,)}),
    "w6a8_int8": ("I8", 48, {"weight_s_rel": (128, 2), "weight_s_channel": (128,)}),
}


def stored(said: str, dtype: str, columns: int, beside: dict, layer: str = LAYER) -> BackboneFile:
    """One layer of that form; the others are plain."""
    state = infos(comfy()) | {f"{layer}.weight": TensorInfo(dtype, (128, columns))}
    state |= {f"{layer}.{end}": TensorInfo("F32", shape) for end, shape in beside.items()}
    return BackboneFile(header_of(state, {layer: {"format": said}}))


@pytest.mark.parametrize("name", AS_SAID)
def test_a_layer_that_is_stored_as_it_is_said_to_be(name):
    stored(name, *AS_SAID[name]).require_as_said()


@pytest.mark.parametrize(
    ("name", "end", "shape"),
    [
        (name, end, shape)
        for name, (_, _, beside) in AS_SAID.items()
        for end in beside
        for shape in [(2,), (64, 4), (4, 128), (3, 1)]
        if end != "weight_s_rel"  # by groups of a size of its own: the host refuses others
    ],
)
def test_scales_of_another_shape_are_refused_by_name(name, end, shape):
    dtype, columns, beside = AS_SAID[name]
    with pytest.raises(LayoutError, match=rf"{LAYER}.{end} \[{shape[0]}.*Download it again"):
        stored(name, dtype, columns, beside | {end: shape}).require_as_said()


@pytest.mark.parametrize("name", AS_SAID)
def test_a_weight_of_another_format_is_refused_by_name(name):
    dtype, columns, beside = AS_SAID["float8_e5m2" if name != "float8_e5m2" else "mxfp8"]
    scale = {"weight_s_rel": ()} if "weight_s_rel" in AS_SAID[name][2] else {}
    with pytest.raises(LayoutError, match=rf"{LAYER}.weight in {dtype} as {name}"):
        stored(name, dtype, columns, beside | scale).require_as_said()


@pytest.mark.parametrize("end", ["weight_codebook", "weight_s_channel"])
def test_a_part_that_the_same_layer_of_another_block_has_is_missed(end):
    """Without a codebook anywhere there is none; in one block alone it was lost."""
    dtype, columns, beside = AS_SAID["asym_w4a8_int8"]
    layers = [LAYER, LAYER.replace("blocks.1.", "blocks.0.")]
    state, how = infos(comfy()), {layer: {"format": "asym_w4a8_int8"} for layer in layers}
    for layer in layers:
        state |= {f"{layer}.weight": TensorInfo(dtype, (128, columns))}
        state |= {f"{layer}.{name}": TensorInfo("F32", shape) for name, shape in beside.items()}
    BackboneFile(header_of(state, how)).require_as_said()
    del state[f"{layers[1]}.{end}"]
    with pytest.raises(LayoutError, match=f"1 tensors .*{layers[1]}.{end} missing"):
        BackboneFile(header_of(state, how)).require_as_said()
    del state[f"{layers[0]}.{end}"]
    BackboneFile(header_of(state, how)).require_as_said()


def test_formats_of_newer_versions_are_not_asked_for_shapes():
    stored("of_tomorrow", "F8_E4M3", 64, {"weight_scale": (1, 1, 7)}).require_as_said()


def old_fp8() -> dict[str, TensorInfo]:
    state = infos(comfy()) | {"scaled_fp8": TensorInfo("F8_E4M3", (0,))}
    for name in matrices(comfy()):
        state |= {name: TensorInfo("F8_E4M3", state[name].shape), f"{name[:-6]}scale_weight": TensorInfo("F32", ())}
    return state


def test_the_scale_of_an_old_file_in_another_shape_is_refused_by_name():
    state = old_fp8()
    BackboneFile(header_of(state)).require_as_said()
    with pytest.raises(LayoutError, match=rf"{LAYER}.scale_weight \[7\]"):
        BackboneFile(header_of(state | {f"{LAYER}.scale_weight": TensorInfo("F32", (7,))})).require_as_said()


@pytest.mark.parametrize("make", [old_fp8, scaled])
def test_a_layer_in_one_byte_without_the_scale_that_other_blocks_have_is_refused(make):
    state = make()
    (scale,) = [name for name in state if name in (f"{LAYER}.scale_weight", f"{LAYER}.weight_scale")]
    info = state.pop(scale)
    with pytest.raises(LayoutError, match=f"1 layers are quantised, but have no scales .{LAYER}"):
        with_header(state)
    with_header(state | {f"{LAYER}.weight": TensorInfo("BF16", state[f"{LAYER}.weight"].shape)})
    state[scale] = info
    with_header(state | {"head.head.weight": TensorInfo("F8_E4M3", state["head.head.weight"].shape)})
