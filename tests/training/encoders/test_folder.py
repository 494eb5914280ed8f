"""A pipeline's folder: what is missing, broken or another's is named with the remedy, and what counts is digested."""

import json
import shutil

import pytest
import torch
from harness.encoder_folders import cogvideox_folder, hunyuan_video_folder, wan_folder
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from training.encoders import folder as folders
from training.encoders.cogvideox import CogVideoXEncoder
from training.encoders.hunyuan_video import HunyuanVideoEncoder
from training.encoders.wan import WanEncoder
from training.errors import ConfigError

CPU = torch.device("cpu")
BY_HAND = "By hand: download the folders vae, text_encoder, tokenizer of https://huggingface.co/{}/tree/main into one"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return wan_folder(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def wan(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "wan")


def encoder(folder):
    return WanEncoder(str(folder), CPU)


def refused(folder, kind=WanEncoder):
    with pytest.raises(ConfigError) as refusal:
        kind(folder if folder is None else str(folder), CPU)
    return str(refusal.value)


def test_what_is_missing_is_named_with_where_to_get_it(wan):
    shutil.rmtree(wan / "tokenizer")
    (wan / "text_encoder" / "model.safetensors").unlink()
    told = refused(wan)
    assert f"{wan} lacks the .safetensors of text_encoder, tokenizer/tokenizer_config.json. " in told
    assert BY_HAND.format("Wan-AI/Wan2.1-T2V-1.3B-Diffusers") in told


def test_no_folder_is_asked_for_by_the_options_that_name_it():
    assert "with --weights here and data.options.encoders in a configuration" in refused(None)


def test_a_folder_that_is_not_there_is_no_hub_name():
    assert refused("/nowhere/wan") == "/nowhere/wan is neither a folder nor the name of a model on the hub."


def test_the_hub_out_of_reach_says_what_to_download_by_hand(monkeypatch):
    def unreachable(name, allow_patterns):
        assert name == "someone/their-wan" and "text_encoder/*.safetensors" in allow_patterns
        raise LocalEntryNotFoundError("Got: Name or service not known\nAnd more.")

    monkeypatch.setattr("training.hub.snapshot_download", unreachable)
    told = refused("someone/their-wan")
    why = "from the hub it cannot be downloaded: Got: Name or service not known. By hand: download"
    assert f"someone/their-wan, and {why}" in told
    assert BY_HAND.format("someone/their-wan") in told and "And more" not in told


def test_a_hub_name_is_what_its_download_is(whole, monkeypatch):
    monkeypatch.setattr("training.hub.snapshot_download", lambda name, allow_patterns: str(whole))
    assert encoder("someone/their-wan").fingerprint == encoder(whole).fingerprint


def test_of_a_transformer_the_config_alone_is_downloaded(tmp_path):
    assert [name for name in CogVideoXEncoder.layout.files() if "transformer/" in name] == ["transformer/config.json"]
    shutil.rmtree(cogvideox_folder(tmp_path) / "transformer")
    told = refused(tmp_path, CogVideoXEncoder)
    assert "lacks transformer/config.json" in told and "tokenizer, and transformer/config.json of https" in told


@pytest.mark.parametrize("kind", [HunyuanVideoEncoder, CogVideoXEncoder])
def test_another_backbones_folder_is_refused(wan, kind):
    layout = kind.layout
    for part in (*layout.models, *layout.weightless, *layout.described):  # all there, so that only their kind is wrong
        if not (wan / part).exists():
            shutil.copytree(wan / ("tokenizer" if part in kind.layout.tokenizers else "vae"), wan / part)
    vae = kind.layout.models["vae"]
    assert f"is of the kind AutoencoderKLWan, where {vae} is needed: it belongs to another" in refused(wan, kind)


def test_another_text_encoder_is_refused(wan, tmp_path):
    shutil.rmtree(wan / "text_encoder")
    shutil.copytree(cogvideox_folder(tmp_path / "other") / "text_encoder", wan / "text_encoder")
    assert "is of the kind t5, where umt5 is needed" in refused(wan)


@pytest.mark.parametrize("text", ["{", "[]", "1", "null"])
def test_a_broken_config_is_named(wan, text):
    (wan / "vae" / "config.json").write_text(text)
    told = refused(wan)
    assert str(wan / "vae") in told


def test_a_file_that_ends_early_is_named(wan):
    file = wan / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    told = refused(wan)
    assert str(file) in told and "By hand: download" in told


def test_weights_that_do_not_fill_a_model_are_refused_and_not_drawn_at_random(wan):
    for part, name, read in (
        ("vae", "diffusion_pytorch_model", lambda it: it.latents(torch.zeros(1, 3, 1, 16, 16))),
        ("text_encoder", "model", lambda it: it.texts(["a cat"])),
    ):
        file = wan / part / f"{name}.safetensors"
        tensors = load_file(file)
        left = sorted(each for each in tensors if "norm" in each)[0]
        del tensors[left]
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(ConfigError, match="lacks weights: .*norm.*Download it again"):
            read(encoder(wan))


def test_a_tokenizer_that_cannot_be_read_is_named_with_what_may_be_missing(wan):
    tokenizer = wan / "tokenizer"
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (tokenizer / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=rf"{tokenizer} cannot be read: .* may lack sentencepiece or protobuf\."):
        encoder(wan).texts(["a cat"])


def test_the_fingerprint_is_of_what_decides_and_of_nothing_else(whole, wan):
    before = encoder(whole).fingerprint
    assert encoder(wan).fingerprint == before, "where the folder is does not count"
    config = json.loads((wan / "vae" / "config.json").read_text())
    (wan / "vae" / "config.json").write_text(json.dumps({**config, "_diffusers_version": "9"}))
    assert encoder(wan).fingerprint == before
    (wan / "vae" / "config.json").write_text(json.dumps({**config, "latents_std": [2.0] * 16}))
    other_statistics = encoder(wan).fingerprint
    words = json.loads((wan / "tokenizer" / "tokenizer_config.json").read_text())
    (wan / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({**words, "padding_side": "left"}))
    other_tokenizer = encoder(wan).fingerprint
    file = wan / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.final_layer_norm.weight"][-1] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    assert len({before, other_statistics, other_tokenizer, encoder(wan).fingerprint}) == 4


def test_the_fingerprint_is_the_same_in_shards(whole, wan):
    model = UMT5EncoderModel.from_pretrained(wan / "text_encoder")
    shutil.rmtree(wan / "text_encoder")
    model.save_pretrained(wan / "text_encoder", max_shard_size="5KB")
    assert len(list((wan / "text_encoder").glob("*.safetensors"))) > 1
    assert encoder(wan).fingerprint == encoder(whole).fingerprint


def test_of_large_tensors_little_is_read(tmp_path, monkeypatch):
    wide = wan_folder(tmp_path, base_dim=32)
    size = sum(file.stat().st_size for file in wide.rglob("*.safetensors"))
    read = []
    original = folders._sampled
    monkeypatch.setattr(folders, "_sampled", lambda tensor: map(lambda b: read.append(len(b)) or b, original(tensor)))
    encoder(wide)
    assert sum(read) < size / 4


def test_a_dry_run_loads_no_model(whole, monkeypatch):
    monkeypatch.setattr(folders.PipelineFolder, "load", lambda *arguments, **options: pytest.fail("loaded"))
    monkeypatch.setattr(folders.PipelineFolder, "tokenizer", lambda *arguments: pytest.fail("loaded"))
    assert encoder(whole).size_rule.channels == 16


def test_all_parts_of_hunyuan_video_count(tmp_path):
    folder = hunyuan_video_folder(tmp_path)
    before = HunyuanVideoEncoder(str(folder), CPU).fingerprint
    file = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).add_(1e-3)
    save_file(tensors, file, {"format": "pt"})
    assert HunyuanVideoEncoder(str(folder), CPU).fingerprint != before
