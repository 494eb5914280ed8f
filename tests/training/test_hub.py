"""A backbone may be named as it is on the hub, and what cannot be had from there is said."""

from fnmatch import fnmatch

import pytest

from training import hub
from training.config import Config, ConfigError, build
from training.methods.base import Setup
from training.methods.distillation import DistillationOptions, load_teacher

OWN = {"transformer/config.json", "transformer/x-00001-of-00001.safetensors", "vae/x.safetensors", "README.md"}


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    """Stands in for the hub: ``on_hub(files)`` are those of every model there; returns what was downloaded."""

    def there(files):
        fetched = []

        def snapshot_download(model, allow_patterns):
            for file in sorted(files):
                if any(fnmatch(file, pattern) for pattern in allow_patterns):
                    path = tmp_path / model / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    fetched.append(file)
            return str(tmp_path / model)

        monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
        return fetched

    return there


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", True),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers/transformer_2", True),
        ("wan.safetensors", False),
        ("/models/wan", False),
        ("../models/wan", False),
        ("teacher/teacher.safetensors", False),
        ("runs/wan/teacher", False),
    ],
)
def test_what_looks_like_a_name(weights, named):
    assert hub.is_name(weights) == named


def test_the_network_alone_is_downloaded(on_hub, tmp_path):
    fetched = on_hub(OWN)
    assert hub.downloaded("some/model") == tmp_path / "some" / "model" / "transformer"
    assert {name.partition("/")[0] for name in fetched} == {"transformer"}


def test_a_model_that_is_one_network_is_downloaded_without_its_other_files(on_hub, tmp_path):
    fetched = on_hub({"config.json", "diffusion_pytorch_model.safetensors", "picture.png"})
    assert hub.downloaded("some/model") == tmp_path / "some" / "model"
    assert fetched == ["diffusion_pytorch_model.safetensors"]


def test_of_a_pair_one_is_named_before_anything_large_is_downloaded(on_hub, tmp_path):
    fetched = on_hub(OWN | {"transformer_2/config.json", "transformer_2/x.safetensors"})
    with pytest.raises(ConfigError, match="a pair .* some/model/transformer or some/model/transformer_2"):
        hub.downloaded("some/model")
    assert fetched == ["transformer/config.json", "transformer_2/config.json"]
    assert hub.downloaded("some/model/transformer_2") == tmp_path / "some" / "model" / "transformer_2"


def test_a_model_in_another_layout_is_named(on_hub):
    on_hub({"wan.safetensors"})
    with pytest.raises(ConfigError, match="some/model has no network in the layout of diffusers"):
        hub.downloaded("some/model")


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """Loads what a configuration names as its weights, by a backbone that gives back where it found them."""
    monkeypatch.chdir(tmp_path)

    class Found:
        def load(self, path, dtype):
            return path

    def load(weights: str):
        stages = {"semantic": {"method": "semantic", "iterations": 1}}
        backbone = {"name": "wan", "weights": weights}
        config = build(Config, {"output": "out", "stage": "semantic", "stages": stages, "backbone": backbone})
        return load_teacher(Setup(config, Found(), None, None), DistillationOptions())

    return load


def test_a_folder_of_that_name_is_preferred(teacher, on_hub, tmp_path):
    fetched = on_hub(OWN)
    assert teacher("some/model") == tmp_path / "some" / "model" / "transformer" and fetched
    fetched.clear()
    (tmp_path / "mine" / "wan").mkdir(parents=True)
    assert teacher("mine/wan").samefile(tmp_path / "mine" / "wan") and not fetched


def test_out_of_reach_the_hub_leaves_a_download_by_hand(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError, match="(?s)no file or folder some/model.* By hand: download the folder transformer"
    ):
        teacher("some/model")


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(teacher, on_hub):
    fetched = on_hub(OWN)
    with pytest.raises(ConfigError, match="There is no teacher at .*wan.safetensors"):
        teacher("models/of/wan.safetensors")
    assert not fetched
