"""What is no expert file, or not a whole one, is refused with a message that says so and what to do."""

import json
import pickle

import pytest
import torch
from harness.experts import DIM, RANK, expert, parts, write_as_is
from safetensors.torch import save_file

from dcm_core.errors import ExpertFileError
from dcm_core.expert.file import load_expert, metadata_of, save_expert

KEY = "diffusion_model.blocks.0.self_attn.q"


def refused(path, match):
    with pytest.raises(ExpertFileError, match=match) as caught:
        load_expert(path)
    assert str(path) in str(caught.value)


def header_and_data(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path, text, data):
    text = text.encode() if isinstance(text, str) else text
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_an_ordinary_lora_is_sent_to_a_lora_loader(tmp_path):
    tensors, _ = parts(expert())
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"ss_network_dim": "4"})
    refused(tmp_path / "lora.safetensors", "LoRA loader")
    save_file(tensors, tmp_path / "bare.safetensors")
    refused(tmp_path / "bare.safetensors", "LoRA loader")


OTHERS = {
    "LoKr": ("diffusion_model.blocks.0.ffn.0.lokr_w1", "LoKr.*LoraLoaderModelOnly"),
    "LoHa": ("lora_unet_blocks_0_ffn_0.hada_w1_a", "LyCORIS.*LoraLoaderModelOnly"),
    "LoRA": ("transformer.blocks.0.attn1.to_q.lora_A.weight", "ordinary LoRA.*LoraLoaderModelOnly"),
    "kohya": ("lora_unet_blocks_0_ffn_0.lora_down.weight", "ordinary LoRA.*LoraLoaderModelOnly"),
    "VACE module": ("vace_blocks.0.self_attn.q.weight", "VACE module.*whole VACE model"),
    "VAE of Wan": ("decoder.middle.0.residual.0.gamma", "a VAE.*models/vae.*Load VAE"),
    "VAE of diffusers": ("decoder.conv_in.weight", "a VAE.*models/vae.*Load VAE"),
    "UMT5": ("encoder.block.0.layer.0.SelfAttention.q.weight", "text encoder.*models/text_encoders.*Load CLIP"),
    "UMT5 by its .pth names": ("blocks.0.ffn.gate.0.weight", "text encoder.*models/text_encoders.*Load CLIP"),
    "Llama": ("model.layers.0.self_attn.q_proj.weight", "text encoder.*models/text_encoders.*Load CLIP"),
    "CLIP vision": ("vision_model.encoder.layers.0.mlp.fc1.weight", "models/clip_vision.*Load CLIP Vision"),
    "CLIP vision by its .pth names": ("visual.transformer.0.attn.to_qkv.weight", "models/clip_vision"),
    "checkpoint of a trainer": ("optimizer.state.0.exp_avg", "training checkpoint.*exported from it"),
    "Wan": ("model.diffusion_model.time_projection.1.weight", "whole backbone.*DCM Load Backbone"),
    "Wan in diffusers' layout": ("condition_embedder.time_proj.weight", "whole backbone.*DCM Load Backbone"),
    "HunyuanVideo": ("txt_in.input_embedder.weight", "whole backbone.*DCM Load Backbone"),
    "all in one": ("first_stage_model.decoder.conv_in.weight", "all-in-one.*Load Checkpoint"),
    "Flux": ("double_blocks.0.img_attn.qkv.weight", "Flux backbone.*Load Diffusion Model"),
    "something": ("a.b.c", "no file that is known here: its tensors are a.b.c"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_in_the_wrong_place_is_told_by_what_it_is_and_where_it_belongs(tmp_path, kind):
    name, says = OTHERS[kind]
    save_file({name: torch.ones(2, 2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "other.safetensors", says)


def test_a_training_checkpoint_of_this_project_is_told(tmp_path):
    metadata = {"state": "{}", "version": "2"}
    save_file({"learners/student/blocks.0.lora_A.weight": torch.ones(2)}, tmp_path / "s.safetensors", metadata=metadata)
    refused(tmp_path / "s.safetensors", "training checkpoint.*exported from it")


def test_a_semantic_expert_as_a_whole_backbone_is_sent_to_its_loader(tmp_path):
    _, header = parts(expert(expert="semantic"))
    save_file({"time_projection.1.weight": torch.ones(2, 2)}, tmp_path / "s.safetensors", metadata=header)
    refused(tmp_path / "s.safetensors", "semantic expert as a whole backbone.*DCM Load Backbone")


@pytest.mark.parametrize("name", ["expert.pt", "expert.ckpt", "renamed.safetensors"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_is_refused_whatever_its_name(tmp_path, name, zipped):
    torch.save(parts(expert())[0], tmp_path / name, _use_new_zipfile_serialization=zipped)
    refused(tmp_path / name, "pickle")


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "trap.safetensors").write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / "trap.safetensors", "pickle")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "0 bytes"),
        (b"\x01\x02", "2 bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"GGUF" + bytes(200), "GGUF"),
        (bytes(range(1, 200)), "does not begin like"),
        (b"\xff" * 100, "does not begin like"),
        ((40).to_bytes(8, "little") + b"[" * 40, "header is not readable"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "header is not readable"),
        ((2).to_bytes(8, "little") + b"[]", "not a table"),
        ((2).to_bytes(8, "little") + b"{}", "without a tensor"),
    ],
    ids=["empty", "tiny", "html", "lfs", "gguf", "noise", "ones", "json", "deep", "list", "nothing"],
)
def test_something_else_is_recognised(tmp_path, content, word):
    (tmp_path / "e.safetensors").write_bytes(content)
    refused(tmp_path / "e.safetensors", word)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_expert(tmp_path / "none.safetensors")
    refused(tmp_path, "folder")


@pytest.mark.parametrize("kept", [5, 100, 0.5, 0.99, -1])
def test_a_cut_file_is_refused(tmp_path, kept):
    path = tmp_path / "e.safetensors"
    save_expert(path, expert())
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    refused(path, "not a whole safetensors file.*again")


def test_bytes_appended_to_a_file_are_noticed(tmp_path):
    path = tmp_path / "e.safetensors"
    save_expert(path, expert())
    path.write_bytes(path.read_bytes() + b"more")
    refused(path, "again")


def test_a_key_that_stands_twice_is_named(tmp_path):
    path = tmp_path / "e.safetensors"
    save_expert(path, expert())
    header, data = header_and_data(path)
    entry = json.dumps({f"{KEY}.alpha": header[f"{KEY}.alpha"]})
    with_header(path, json.dumps(header)[:-1] + "," + entry[1:], data)
    refused(path, f"twice: {KEY}.alpha")


@pytest.mark.parametrize(("version", "works"), [("1.0", True), ("1.99", True), ("2.0", False), ("10.0", False)])
def test_a_newer_major_format_is_refused_and_a_newer_minor_accepted(tmp_path, version, works):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    write_as_is(path, tensors, header | {"dcm.format": version})
    if works:
        load_expert(path)
    else:
        refused(path, "update DCM")


@pytest.mark.parametrize("version", ["", "1", "one", "1.0.0", "-1.0", "٢.0"])
def test_a_format_that_is_none_is_refused(tmp_path, version):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    write_as_is(path, tensors, header | {"dcm.format": version})
    refused(path, "dcm.format")


@pytest.mark.parametrize(
    "field", ["dcm.format", "dcm.expert", "dcm.family", "dcm.backbone", "dcm.guidance", "dcm.grid", "dcm.shift",
              "dcm.kappa_index", "dcm.prediction", "dcm.layers"]
)  # fmt: skip
def test_a_lost_field_is_named(tmp_path, field):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    del header[field]
    write_as_is(path, tensors, header)
    refused(path, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dcm.expert", "both"), ("dcm.guidance", "six"), ("dcm.guidance", "nan"), ("dcm.guidance", "-1"),
        ("dcm.rank", "4.5"), ("dcm.alpha", "inf"), ("dcm.complete", "perhaps"), ("dcm.kappa_index", "49"),
        ("dcm.kappa_sigma", "0.5"), ("dcm.shift", "[" * 5000), ("dcm.prediction", "epsilon"),
        ("dcm.sigmas.6", "[[1]]"), ("dcm.rank", "9" * 5000), ("dcm.trained_steps", "four"),
        ("dcm.pair", "both"),
        ("dcm.trained_steps", "0"), ("dcm.trained_steps", "51"),
    ],
)  # fmt: skip
def test_a_field_that_makes_no_sense_is_named(tmp_path, field, value):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    write_as_is(path, tensors, header | {field: value})
    refused(path, field.split(".")[1])


def test_nan_and_inf_are_named(tmp_path):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    tensors[f"{KEY}.lora_B.weight"][2, 1] = float("nan")
    tensors["diffusion_model.blocks.1.modulation.diff"][0, 0, 0] = float("-inf")
    write_as_is(path, tensors, header)
    refused(path, rf"NaN or Inf in (?=.*{KEY}.lora_B.weight)(?=.*blocks.1.modulation)")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_a_tensor_of_an_unsuitable_type_is_named(tmp_path, dtype):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    tensors[f"{KEY}.lora_A.weight"] = torch.ones(RANK, DIM).to(dtype)
    write_as_is(path, tensors, header)
    refused(path, f"{KEY}.lora_A.weight")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{KEY}.diff": torch.ones(DIM, DIM)}, "blocks.0.self_attn.q.*low-rank pair and a difference"),
        ({f"{KEY}.diff_b": torch.ones(DIM)}, "blocks.0.self_attn.q.*low-rank pair and a difference"),
        ({f"{KEY}.lora_down.weight": torch.ones(RANK, DIM)}, "blocks.0.self_attn.q.*two spellings"),
        ({f"{KEY}.lora_B.weight": None}, "blocks.0.self_attn.q.*without its up"),
        ({f"{KEY}.lora_A.weight": None, f"{KEY}.lora_B.weight": None}, "blocks.0.self_attn.q.*down and up"),
        ({f"{KEY}.lora_A.weight": torch.ones(RANK + 1, DIM)}, "blocks.0.self_attn.q.*rank"),
        ({f"{KEY}.alpha": torch.ones(2)}, "blocks.0.self_attn.q.*alpha"),
        ({f"{KEY}.alpha": torch.tensor(float("nan"))}, "blocks.0.self_attn.q.*alpha"),
        ({f"{KEY}.set_weight": torch.ones(DIM, DIM)}, "blocks.0.self_attn.q.*low-rank pair and a new weight"),
        ({"diffusion_model.x.bias.set_weight": torch.ones(DIM)}, "x: it has a new bias without"),
        ({"diffusion_model.x.set_weight": torch.ones(DIM)}, "x: a replacement needs"),
        ({f"{KEY}.dora_scale": torch.ones(DIM)}, f"{KEY}.dora_scale"),
        ({f"{KEY}.lora_mid.weight": torch.ones(2)}, f"{KEY}.lora_mid.weight"),
        ({"text_encoders.a.diff": torch.ones(2)}, "text_encoders.a.diff"),
        ({"diffusion_model.head.head.diff_b": torch.ones(2, 2)}, "head.head.*one dimension"),
        ({"diffusion_model.blocks.0.modulation.diff": None}, "missing.*blocks.0.modulation"),
        ({"diffusion_model.blocks.0.modulation.diff_b": torch.ones(2)}, "blocks.0.modulation"),
        ({"diffusion_model.diff": torch.ones(2)}, "diffusion_model.diff"),
    ],
)
def test_a_key_that_is_wrong_is_named(tmp_path, change, words):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    tensors = {key: value for key, value in (tensors | change).items() if value is not None}
    write_as_is(path, tensors, header)
    refused(path, words)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"dcm.rank": "8"}, "blocks.0.self_attn.o has rank 4 and alpha 8, the header says rank 8 and alpha 8"),
        ({"dcm.alpha": "4.0"}, "the header says rank 4 and alpha 4"),
    ],
)
def test_a_header_that_contradicts_the_tensors_is_refused(tmp_path, header, words):
    path = tmp_path / "e.safetensors"
    tensors, said = parts(expert())
    write_as_is(path, tensors, said | header)
    refused(path, words)
    with pytest.raises(ExpertFileError, match="contradicts"):
        save_expert(path, expert(rank=3))


@pytest.mark.parametrize("lost", [".alpha", "self_attn.q.alpha"])
def test_a_lost_alpha_that_the_header_tells_of_is_refused(tmp_path, lost):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    write_as_is(path, {key: tensor for key, tensor in tensors.items() if not key.endswith(lost)}, header)
    refused(path, r"dcm.alpha is 8, but low-rank pairs have no .alpha: .*blocks.0.self_attn.q")


def test_a_whole_layer_that_was_lost_is_named(tmp_path):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert(blocks=3))
    kept = {key: value for key, value in tensors.items() if not key.startswith("diffusion_model.blocks.1.self_attn.o")}
    write_as_is(path, kept, header)
    refused(path, r"promises 12 layers, the file has 11.*blocks\.1\.self_attn\.o")


def test_a_changed_value_is_noticed(tmp_path):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    save_file(tensors, path, metadata=header | {"dcm.guidance": "5.0", "dcm.digest": "0" * 64})
    refused(path, "dcm.digest")


def test_metadata_alone_are_refused_as_the_whole_file_is(tmp_path):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    write_as_is(path, tensors, header | {"dcm.format": "3.0"})
    with pytest.raises(ExpertFileError, match="update DCM"):
        metadata_of(path)


@pytest.mark.parametrize("change", [-8, 8], ids=["overlap", "gap"])
def test_tensors_that_do_not_lie_end_to_end_are_refused(tmp_path, change):
    path = tmp_path / "e.safetensors"
    save_file({"a": torch.zeros(8), "b": torch.ones(8)}, path)
    content = path.read_bytes()
    moved = content.replace(b"[32,64]", f"[{32 + change},{64 + change}]".encode())
    path.write_bytes(moved[: len(moved) + min(change, 0)] + bytes(max(change, 0)))
    refused(path, "overlap or leave gaps")
