"""``python -m dcm_core.convert`` as people use it: what it prints, its exit status, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness.command_line import run
from harness.diffusers_models import random_state, released
from harness.experts import expert, parts, write_as_is
from safetensors.torch import load_file, save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.convert.semantic import semantic_metadata
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.files.format import TensorInfo, tensor_bytes
from dcm_core.files.stream import stream_tensors

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a bundle of Wan, and the backbone its semantic expert was made from, to work in."""
    monkeypatch.chdir(tmp_path)
    save_file(released("wan t2v"), "bundle.safetensors")
    save_file(random_state("wan t2v", seed=3), "base.safetensors")
    return tmp_path


def test_the_round_trip_is_bit_equal(files, capsys):
    for step in (
        "to-comfy bundle.safetensors semantic.safetensors",
        "export bundle.safetensors detail.safetensors --exact",
        "to-diffusers semantic.safetensors again.safetensors --expert detail.safetensors",
    ):
        status, out, err = run(capsys, *step.split())
        assert status == 0, err
        assert out == "", "the result is a file: progress and remarks go to standard error"
    one, other = load_file("bundle.safetensors"), load_file("again.safetensors")
    assert one.keys() == other.keys()
    assert all(tensor_bytes(one[name]) == tensor_bytes(other[name]) for name in one)


def test_inspect_says_what_a_bundle_and_its_parts_are(files, capsys):
    run(capsys, "export", "bundle.safetensors", "detail.safetensors")
    run(capsys, "to-comfy", "bundle.safetensors", "semantic.safetensors")
    low_rank = ("--semantic", "low-rank", "--rank", "2", "--base", "base.safetensors")
    status, table, _ = run(capsys, "export", "bundle.safetensors", "low_rank.safetensors", *low_rank)
    assert status == 0 and "of the whole difference is lost at rank 2" in table
    said = {}
    for name in ("bundle", "detail", "semantic", "low_rank", "base"):
        status, text, _ = run(capsys, "inspect", f"{name}.safetensors")
        assert status == 0
        said[name] = text
    for name in ("bundle", "detail"):
        assert "detail expert for Wan 2.1 T2V" in said[name] and "rank 4, alpha 8" in said[name]
        assert "kappa: grid index 34 of 50, sigma 0.975410" in said[name]
        assert "6 steps: SemE 3 steps 1.000 0.992 0.982 | DetE 3 steps 0.949 0.905 0.810" in said[name]
    shapes = str(ROOT / "dcm_core" / "shapes" / "weights" / "detail.safetensors")
    assert "  detail expert for shapes, guidance" in run(capsys, "inspect", shapes)[1]
    assert "released bundle" in said["bundle"] and "released DCM bundle" in said["bundle"]
    assert "semantic expert as a whole backbone" in said["semantic"] and "ComfyUI layout" in said["semantic"]
    assert "of the difference lost" in said["low_rank"]
    assert "backbone" in said["base"] and "diffusers layout" in said["base"] and "kappa" not in said["base"]


def test_inspect_gives_the_norm_of_every_change_as_json(files, capsys):
    run(capsys, "export", "bundle.safetensors", "detail.safetensors")
    bundle = load_file("bundle.safetensors")
    said = {}
    for name in ("bundle", "detail"):
        _, text, _ = run(capsys, "inspect", f"{name}.safetensors", "--json")
        said[name] = json.loads(text)
        layers = {layer["layer"]: layer for layer in said[name]["layers"]}
        module = "blocks.1.attn2.to_q"
        pair = 2 * bundle[f"{module}.lora_B.lora1.weight"] @ bundle[f"{module}.lora_A.lora1.weight"]
        assert layers["blocks.1.cross_attn.q"]["norm"] == pytest.approx(float(pair.norm()), rel=1e-4)
        twin = [bundle[f"proj_out_lora.{kind}"] - bundle[f"proj_out.{kind}"] for kind in ("weight", "bias")]
        norm = float(torch.cat([tensor.flatten() for tensor in twin]).norm())
        assert layers["head.head"]["norm"] == pytest.approx(norm, rel=1e-4)
    names = [sorted(layer["layer"] for layer in each["layers"]) for each in said.values()]
    assert names[0] == names[1]
    assert said["detail"]["intact"] and said["detail"]["schedule"]["sigmas"]["4"][0] == 1.0


def test_what_experts_were_trained_for_is_told_and_kept(files, capsys):
    run(capsys, "to-comfy", "bundle.safetensors", "plain.safetensors")
    made = replace(semantic_metadata(BackboneFile.open("plain.safetensors")), trained_steps=2)
    save_file(load_file("plain.safetensors"), "whole.safetensors", made.to_header())
    for step in (
        "to-diffusers whole.safetensors diffusers.safetensors",
        "to-comfy diffusers.safetensors comfy.safetensors",
        "export comfy.safetensors difference.safetensors --semantic difference --base base.safetensors",
        "export comfy.safetensors low_rank.safetensors --semantic low-rank --rank 2 --base base.safetensors",
    ):
        status, _, err = run(capsys, *step.split())
        assert status == 0, err
    for name in ("whole", "diffusers", "comfy", "difference", "low_rank"):
        status, text, err = run(capsys, "inspect", f"{name}.safetensors")
        assert status == 0, err
        assert "trained for the noise levels of 2 steps and no others" in text, name
        assert "  2 steps: SemE 1 step 1.000 | DetE 1 step" in text and "4 steps:" not in text, name
        assert json.loads(run(capsys, "inspect", f"{name}.safetensors", "--json")[1])["trained_steps"] == 2
    assert "no others" not in run(capsys, "inspect", "bundle.safetensors")[1]


def test_a_bundle_that_cannot_say_what_its_expert_was_trained_for_is_remarked(files, capsys):
    run(capsys, "export", "bundle.safetensors", "any.safetensors", "--exact")
    run(capsys, "to-comfy", "bundle.safetensors", "semantic.safetensors")
    one = load_expert("any.safetensors")
    save_expert("two.safetensors", replace(one, metadata=replace(one.metadata, trained_steps=2)))
    for name, is_said in (("any", False), ("two", True)):
        command = f"to-diffusers semantic.safetensors {name}_bundle.safetensors --expert {name}.safetensors"
        status, _, err = run(capsys, *command.split())
        assert status == 0 and ("does not say that its expert was trained for 2 steps" in err) == is_said, err


def test_inspect_sees_damage(tmp_path, capsys):
    path = tmp_path / "e.safetensors"
    save_expert(path, expert())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    status, text, err = run(capsys, "inspect", str(path))
    assert status == 1 and "DAMAGED" in text and f"error: {path}: the content is not what was written" in err


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_inspect_tells_of_an_expert_in_a_dtype_that_none_is_loaded_in(tmp_path, capsys, dtype):
    path = tmp_path / "e.safetensors"
    tensors, header = parts(expert())
    write_as_is(path, {key: tensor.to(dtype) for key, tensor in tensors.items()}, header)
    status, text, err = run(capsys, "inspect", str(path))
    assert status == 1 and "NOT USABLE: has tensors that are no F32, F16, BF16" in text and err.startswith("error: ")
    assert "blocks.1.self_attn.q" in text and "of rank 4" in text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64], ids=str)
def test_a_bundle_in_any_float_is_exported_and_put_together_again(files, capsys, dtype):
    bundle = {name: tensor.to(dtype) for name, tensor in load_file("bundle.safetensors").items()}
    save_file(bundle, "cast.safetensors")
    for step in (
        "inspect cast.safetensors",
        "export cast.safetensors detail.safetensors --exact",
        "to-comfy cast.safetensors semantic.safetensors",
        "to-diffusers semantic.safetensors again.safetensors --expert detail.safetensors",
    ):
        status, _, err = run(capsys, *step.split())
        assert status == 0, err
    again = load_file("again.safetensors")
    assert again.keys() == bundle.keys()
    for name, tensor in bundle.items():
        torch.testing.assert_close(again[name].float(), tensor.float(), rtol=0, atol=0)


def drop(names):
    return lambda bundle: [bundle.pop(name) for name in [*bundle] if names in name]


def reshape(name, *shape):
    return lambda bundle: bundle.update({name: torch.ones(shape)})


def spoil(name):
    return lambda bundle: bundle[name].view(-1)[:1].fill_(float("nan"))


NOT_WHOLE = {
    "a twin's bias": (drop("proj_out_lora.bias"), "lacks proj_out_lora.bias"),
    "a twin": (drop("condition_embedder_lora.time_proj."), "lacks condition_embedder_lora.time_proj.bias"),
    "a pair": (drop("blocks.1.attn2.to_q.lora_"), "lacks the low-rank pair of blocks.1.attn2.to_q"),
    "all pairs": (drop(".lora1."), "has no low-rank pairs"),
    "a twin's shape": (reshape("proj_out_lora.weight", 64, 9), "wrong shape: proj_out_lora.weight [64, 9] for [64, 8]"),
    "a pair's shape": (reshape("blocks.0.attn1.to_k.lora_A.lora1.weight", 4, 9), "wrong shape: blocks.0.attn1.to_k"),
    "a pair's form": (reshape("blocks.0.attn1.to_k.lora_A.lora1.weight", 4), "wrong shape: blocks.0.attn1.to_k"),
    "a base's shape": (reshape("blocks.0.attn1.to_k.base_layer.weight", 8, 9), "wrong shape: blocks.0.attn1.to_k"),
    "a base's twin's shape": (reshape("proj_out.weight", 64, 9), "wrong shape: proj_out_lora.weight [64, 8] for"),
    "a pair's numbers": (spoil("blocks.0.attn1.to_k.lora_B.lora1.weight"), "NaN or Inf in blocks.0.attn1.to_k.lora_B"),
    "a twin's numbers": (spoil("proj_out_lora.bias"), "NaN or Inf in head.head.bias"),
}


@pytest.mark.parametrize("what", NOT_WHOLE)
def test_a_bundle_whose_expert_is_not_whole_is_told_and_not_exported(files, capsys, what):
    bundle = load_file("bundle.safetensors")
    change, says = NOT_WHOLE[what]
    change(bundle)
    save_file(bundle, "bundle.safetensors")
    status, text, err = run(capsys, "inspect", "bundle.safetensors")
    assert status == 1 and says in text and says in err and "released" in text
    assert err.count("bundle.safetensors: ") == 1
    status, _, err = run(capsys, "export", "bundle.safetensors", "x.safetensors")
    assert status == 1 and says in err and "bundle.safetensors: " in err and err.count("\n") == 1
    assert not Path("x.safetensors").exists()


def test_a_name_that_the_console_has_no_letters_for_is_written_all_the_same(files):
    Path("модель.safetensors").write_bytes(Path("base.safetensors").read_bytes())
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "dcm_core.convert"]
    for arguments in (["inspect", "модель.safetensors"], ["to-comfy", "модель.safetensors", "выход.safetensors"]):
        done = subprocess.run([*command, *arguments], capture_output=True, env=environment, text=True)
        assert done.returncode == 0, done.stderr
    assert "\\u0432\\u044b\\u0445\\u043e\\u0434" in done.stderr and Path("выход.safetensors").exists()


@pytest.mark.parametrize("ending", ["sft", "SafeTensors", "SFT"])
def test_every_ending_that_is_listed_can_be_written(files, capsys, ending):
    status, _, err = run(capsys, "to-comfy", "base.safetensors", f"x.{ending}")
    assert status == 0 and Path(f"x.{ending}").exists(), err


MISTAKES = {
    "inspect nothing.safetensors": "No such file or directory: nothing.safetensors",
    "inspect vae.safetensors": "error: vae.safetensors: this is no CogVideoX, HunyuanVideo or Wan",
    "inspect cut.safetensors": "it is cut off",
    "inspect model.pt": "pickle",
    "inspect .": "more than one network",
    "export base.safetensors x.safetensors": "only a released bundle holds a detail expert",
    "export bundle.safetensors x.ckpt": "has to end in .safetensors",
    "to-comfy bundle.safetensors base.safetensors": "base.safetensors exists: give another name, or --force",
    "to-comfy bundle.safetensors bundle.safetensors --force": "is read and written",
    "to-comfy bundle.safetensors no/x.safetensors": "folder does not exist",
    "to-diffusers base.safetensors x.safetensors --expert base.safetensors": "no dcm.* metadata",
    "export bundle.safetensors x.safetensors --semantic difference --base vae.safetensors": "vae.safetensors: this",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_with_a_file_is_one_line_and_leaves_nothing(files, capsys, line):
    save_file({"decoder.conv_in.weight": torch.zeros(1)}, "vae.safetensors")
    Path("cut.safetensors").write_bytes(Path("bundle.safetensors").read_bytes()[:-10])
    torch.save({"a": torch.zeros(1)}, "model.pt")
    before = {path: path.read_bytes() for path in files.iterdir()}
    status, out, err = run(capsys, *line.split())
    assert (status, out) == (1, "")
    assert MISTAKES[line] in err and err.startswith("error: ") and "Traceback" not in err
    assert {path: path.read_bytes() for path in files.iterdir()} == before


USAGE = {
    "": "required",
    "export bundle.safetensors x.safetensors --semantic low-rank --base base.safetensors": "needs --rank",
    "export bundle.safetensors x.safetensors --semantic difference": "needs --base",
    "export bundle.safetensors x.safetensors --rank 4": "--rank is for --semantic low-rank",
    "export bundle.safetensors x.safetensors --semantic whole --compact": "for the detail expert",
    "export bundle.safetensors x.safetensors --semantic low-rank --rank 0": "below 1",
}


@pytest.mark.parametrize("line", USAGE)
def test_arguments_that_say_nothing_together_are_refused(files, capsys, line):
    status, _, err = run(capsys, *line.split())
    assert status == 2 and USAGE[line] in err
    assert not Path("x.safetensors").exists()


def test_help_shows_examples(capsys):
    for command in ([], ["export"]):
        status, out, _ = run(capsys, *command, "--help")
        assert status == 0 and "python -m dcm_core.convert export DCM_WAN.safetensors" in out


def test_force_replaces_and_a_folder_of_shards_is_read(files, capsys):
    table = {}
    for number, name in enumerate(load_file("base.safetensors")):
        table.setdefault(f"m-0000{1 + number % 2}-of-00002.safetensors", []).append(name)
    state = load_file("base.safetensors")
    Path("model/transformer").mkdir(parents=True)
    for shard, names in table.items():
        save_file({name: state[name] for name in names}, f"model/transformer/{shard}")
    index = {"weight_map": {name: shard for shard, names in table.items() for name in names}}
    Path("model/transformer/m.safetensors.index.json").write_text(json.dumps(index))
    assert run(capsys, "to-comfy", "base.safetensors", "whole.safetensors")[0] == 0
    shard = "model/transformer/m-00001-of-00002.safetensors"
    status, _, err = run(capsys, "to-comfy", "model", shard, "--force")
    assert status == 1 and "is read and written" in err
    Path("shards.safetensors").write_bytes(b"former")
    assert run(capsys, "to-comfy", "model", "shards.safetensors", "--force")[0] == 0
    one, other = load_file("shards.safetensors"), load_file("whole.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals for a child")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_conversion_leaves_the_former_file_and_nothing_else(tmp_path, number):
    """Stopped while the tensors are being written: the copying is slowed down so that it is still going on."""
    infos = {name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in random_state("wan t2v").items()}
    with stream_tensors(tmp_path / "a.safetensors", infos, {}) as writer:
        for name, info in infos.items():
            writer.put(name, tensor_bytes(torch.ones(info.shape)))
    (tmp_path / "b.safetensors").write_bytes(b"former")
    code = """
import signal, sys, time
from dcm_core.files import stream
from dcm_core.convert.command import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a run in the background has been told to ignore
put = stream.TensorWriter.put
def slow(*arguments):
    put(*arguments)
    print("put", flush=True)
    time.sleep(1)
stream.TensorWriter.put = slow
sys.exit(main(["to-comfy", "a.safetensors", "b.safetensors", "--force"]))
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        assert process.stdout.readline() == "put\n"
        assert len(list(tmp_path.iterdir())) == 3, "the unfinished file lies beside the former one"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was written" in err and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert (tmp_path / "b.safetensors").read_bytes() == b"former"


def test_a_reader_that_stops_listening_is_no_error(files):
    command = f"{sys.executable} -m dcm_core.convert inspect bundle.safetensors | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bundle.safetensors\n", "")


def test_what_is_made_of_float64_says_what_it_is_written_in(files, capsys):
    for name in ("bundle", "base"):
        state = {key: tensor.double() for key, tensor in load_file(f"{name}.safetensors").items()}
        save_file(state, f"{name}64.safetensors")
    command = "export bundle64.safetensors x.safetensors --semantic difference --base base64.safetensors"
    status, _, err = run(capsys, *command.split())
    assert status == 0 and "written in fp32: an expert file holds no float64" in err
    assert {tensor.dtype for tensor in load_file("x.safetensors").values()} == {torch.float32}
    status, _, err = run(capsys, *command.split(), "--force", "--dtype", "bf16")
    assert status == 0 and "written in" not in err
