"""``stamp`` and ``inspect``: noise levels into a LoRA's file and out of it, with every tensor as it was."""

import json
import stat

import pytest
import torch
from harness.command_line import run
from harness.diffusers_models import random_state
from harness.experts import expert
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dcm_core.expert.file import load_expert, metadata_of, save_expert
from dcm_core.expert.other_files import speed_lora_of
from dcm_core.files.format import tensor_bytes
from dcm_core.schedule.speed_loras import SPEED_PRESETS

LEVELS = "1 0.9375 0.8333 0.625".split()


@pytest.fixture
def file(tmp_path):
    """A LoRA of several dtypes, one of them fp8, and with the metadata of its trainer."""
    pair = {"lora_down.weight": torch.randn(4, 8).bfloat16(), "lora_up.weight": torch.randn(6, 4).bfloat16()}
    tensors = {f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in pair.items()}
    tensors["diffusion_model.blocks.0.self_attn.q.alpha"] = torch.tensor(4.0)
    tensors["diffusion_model.head.head.lora_up.weight"] = torch.randn(3, 2).to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "turbo.safetensors", {"ss_network_dim": "4"})
    return tmp_path / "turbo.safetensors"


def metadata(file):
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_stamp_inspect_and_load_go_round(file, capsys):
    before = load_file(file)
    options = "--shift 5 --sampler lcm euler --cfg 1 --strength 0.8 --boundary 0.9 --expert high --family wan".split()
    texts = ("--title", "tidal turbo", "--source", "https://example.org")
    status, out, err = run(capsys, "stamp", str(file), "--sigmas", *LEVELS, *options, *texts)
    assert status == 0 and out == "" and "noise levels for 4 steps are written" in err
    after = load_file(file)
    assert before.keys() == after.keys()
    assert all(tensor_bytes(before[name]) == tensor_bytes(after[name]) for name in before)
    assert metadata(file)["ss_network_dim"] == "4"
    found = speed_lora_of(file)
    assert found.passport.sigmas == {4: tuple(map(float, LEVELS))}
    assert (found.title, found.passport.shift, found.passport.expert) == ("tidal turbo", 5.0, "high")
    status, text, _ = run(capsys, "inspect", str(file))
    assert (
        status == 0 and "speed LoRA" in text and "tidal turbo, by its own metadata, as https://example.org says" in text
    )
    assert "  4 steps: 1.0000 0.9375 0.8333 0.6250" in text
    settings = "sampler lcm or euler, shift 5, cfg 1, strength 0.8, boundary 0.9, for the high-noise model of a pair"
    assert settings in text
    said = json.loads(run(capsys, "inspect", str(file), "--json")[1])
    assert said["passport"]["sigmas"] == {"4": [1.0, 0.9375, 0.8333, 0.625]} and said["passport"]["cfg"] == 1.0


def test_a_second_stamp_replaces_the_first(file, capsys):
    assert "former" not in run(capsys, "stamp", str(file), "--sigmas", *LEVELS, "--cfg", "1")[2]
    # With commas, with the final 0, and for two numbers of steps of which the first is the usual one.
    lists = ("--sigmas", "1, 0.75, 0.5, 0.25, 0", "--sigmas", "1,0.5")
    status, _, err = run(capsys, "stamp", str(file), *lists)
    assert status == 0 and f"{file}: its former stamp is replaced\n" in err
    passport = speed_lora_of(file).passport
    assert passport.sigmas == {2: (1.0, 0.5), 4: (1.0, 0.75, 0.5, 0.25)}
    assert passport.usual_steps == 4 and passport.cfg is None and passport.source == ""


def test_a_link_stays_one(file, tmp_path, capsys):
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    assert run(capsys, "stamp", str(link), "--sigmas", *LEVELS)[0] == 0
    assert link.is_symlink() and speed_lora_of(file).passport.sigmas == {4: tuple(map(float, LEVELS))}


def test_a_header_that_no_program_would_read(file, capsys, monkeypatch):
    before, reading = file.read_bytes(), 1 + int.from_bytes(file.read_bytes()[:8], "little")
    monkeypatch.setattr("dcm_core.files.format._MAX_HEADER", reading)
    status, _, err = run(capsys, "stamp", str(file), "--sigmas", *LEVELS)
    assert status == 1 and "no program reads more than" in err and file.read_bytes() == before


def test_a_preset_into_a_file_of_another_name(file, capsys):
    assert run(capsys, "stamp", str(file), "--preset", "wan2.2 lightning", "--expert", "low")[0] == 0
    found = speed_lora_of(file)
    assert (found.title, found.passport.expert) == ("wan2.2 lightning", "low")
    assert dict(found.passport.sigmas) == dict(SPEED_PRESETS["wan2.2 lightning"].sigmas)


def test_inspect_of_a_lora_that_nothing_is_known_of(file, capsys):
    status, text, _ = run(capsys, "inspect", str(file))
    assert status == 0 and "no noise levels are known of it" in text
    assert f"python -m dcm_core.convert stamp {file} --sigmas" in text
    file = file.rename(file.with_name("Wan21_AccVid_T2V_14B.safetensors"))
    assert "wan2.1 accvid, by its file's name, as https://" in run(capsys, "inspect", str(file))[1]
    file = file.rename(file.with_name("Wan2.1_FusionX_lightx2v.safetensors"))
    status, text, _ = run(capsys, "inspect", str(file))
    assert status == 0 and "DOUBTFUL" in text and "by its name" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sigmas", "0.5", "0.9"), "sigmas must fall"),
        (("--sigmas", "1000", "500"), "divide timesteps by 1000"),
        (("--sigmas", "1", "half"), "could not convert"),
        (("--sigmas", "0"), "which makes no step"),
        (("--sigmas", "1", "0.5", "--sigmas", "1", "0.6"), "two lists for one number of steps"),
        (("--sigmas", *LEVELS, "--boundary", "0.5"), "the passport contradicts itself"),
        (("--sigmas", *LEVELS, "--shift", "-5"), "shift is -5"),
        (("--preset", "wan2.3"), "preset 'wan2.3' is unknown: known are wan2.2 lightning"),
    ],
    ids=str,
)
def test_passports_that_cannot_be_meant(file, capsys, options, said):
    before = file.read_bytes()
    status, _, err = run(capsys, "stamp", str(file), *options)
    assert status == 1 and said in err and err.count("\n") == 1
    assert file.read_bytes() == before and [*file.parent.iterdir()] == [file]


def test_wrong_arguments(file, capsys):
    for options in ((), ("--sigmas", *LEVELS, "--preset", "fastwan"), ("--sigmas", *LEVELS, "--expert", "middle")):
        assert run(capsys, "stamp", str(file), *options)[0] == 2


def test_files_that_take_no_stamp(tmp_path, file, capsys):
    def refused(path, said):
        status, _, err = run(capsys, "stamp", str(path), "--sigmas", *LEVELS)
        assert status == 1 and said in err, err

    file.chmod(stat.S_IRUSR)
    before = file.read_bytes()
    refused(file, "is read-only: make it writable, or stamp a copy")
    assert file.read_bytes() == before
    torch.save({}, tmp_path / "turbo.pt")
    refused(tmp_path / "turbo.pt", "not a safetensors file")
    refused(tmp_path / "gone.safetensors", "No such file")
    refused(tmp_path, "is a folder")
    save_file(random_state("wan t2v"), tmp_path / "backbone.safetensors")
    refused(tmp_path / "backbone.safetensors", "is no LoRA, and only those are asked for their noise levels")


def test_an_expert_keeps_its_digest_and_its_own_levels(tmp_path, capsys):
    path = tmp_path / "detail.safetensors"
    save_expert(path, expert())
    own = [str(sigma) for sigma in metadata_of(path).schedule.sigmas(4)[:-1].tolist()]
    status, _, err = run(capsys, "stamp", str(path), "--sigmas", *LEVELS)
    assert status == 1 and "whose own schedule gives other noise levels for 4 steps" in err
    assert run(capsys, "stamp", str(path), "--sigmas", *own, "--sampler", "euler")[0] == 0
    assert load_expert(path).metadata.passport.samplers == ("euler",)
    assert "by its own metadata" in run(capsys, "inspect", str(path))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    status, _, err = run(capsys, "stamp", str(path), "--sigmas", *own)
    assert status == 1 and "is damaged" in err and path.read_bytes() == data
