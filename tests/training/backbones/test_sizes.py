"""The published sizes of each adapter, and what is no network that it can train."""

import pytest
import torch
from harness.diffusers_models import random_state
from harness.tiny_backbones import BACKBONES
from safetensors.torch import save_file

from training.config import BackboneConfig, ConfigError
from training.networks.weights import parameters_without_memory
from training.registry import build_backbone

# What the records of the families call them, and how many numbers they have, in thousand millions.
SIZES = [
    ("wan", "wan", "", "Wan 2.1 T2V 1.3B", 1.42),
    ("wan", "wan", "1.3b", "Wan 2.1 T2V 1.3B", 1.42),
    ("wan", "wan", "14b", "Wan 2.1 T2V 14B (or one expert of Wan 2.2 A14B)", 14.29),
    ("wan", "wan", "14b_i2v", "Wan 2.1 I2V 14B", 16.40),
    ("wan", "wan", "a14b", "Wan 2.1 T2V 14B (or one expert of Wan 2.2 A14B)", 14.29),
    ("wan", "wan", "a14b_i2v", "Wan 2.2 I2V A14B (one expert)", 14.29),
    ("wan", "wan", "5b", "Wan 2.2 5B", 5.00),
    ("hunyuan_video", "hunyuan_video", "13b", "HunyuanVideo T2V 13B", 12.82),
    ("cogvideox", "cogvideox", "5b", "CogVideoX 1.0 T2V 5B", 5.57),
    ("cogvideox", "cogvideox_2b", "2b", "CogVideoX 1.0 T2V 2B", 1.69),
    ("cogvideox", "cogvideox", "1.5_5b", "CogVideoX 1.5 T2V 5B", 5.57),
]


@pytest.mark.parametrize(("name", "family", "size", "variant", "billions"), SIZES)
def test_a_size_is_that_of_the_published_model(name, family, size, variant, billions):
    backbone = build_backbone(BackboneConfig(name=name, family=family, size=size))
    with parameters_without_memory():
        network = backbone.build(0)
    shapes = {
        key: tuple(t.shape) for key, t in backbone.keymap.state_to_comfy(network.transformer.state_dict()).items()
    }
    assert backbone.keymap.variant(shapes) == variant and not backbone.keymap.missing(shapes)
    assert sum(p.numel() for p in network.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    assert {p.device.type for p in network.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "wan", "size": "2b"}, "backbone.size='2b' is unknown; use 1.3b, 14b, .* or 5b"),
        ({"name": "shapes", "size": "14b"}, "backbone.size='14b' is unknown; there is none"),
        ({"name": "wan", "family": "hunyuan_video"}, "HunyuanVideo has another network than backbone.name=wan"),
        ({"name": "hunyuan_video", "family": "wan"}, "Wan has another network than backbone.name=hunyuan_video"),
    ],
)
def test_a_size_or_family_of_another_backbone_is_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(BackboneConfig(**settings))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("hunyuan_video", {"in_channels": 33}, "backbone.architecture: image to video of HunyuanVideo cannot be"),
        ("cogvideox 5b", {"in_channels": 32}, "backbone.architecture: image to video of CogVideoX cannot be"),
    ],
)
def test_image_to_video_that_cannot_be_trained_is_named(name, settings, words):
    tiny = BACKBONES[name]
    with pytest.raises(ConfigError, match=words):
        tiny.backbone(architecture=tiny.architecture | settings).build(0)


@pytest.mark.parametrize(("name", "state"), [("hunyuan_video", "hunyuan_video i2v"), ("cogvideox 5b", "cogvideox i2v")])
def test_a_file_of_image_to_video_that_cannot_be_trained_is_named(name, state, tmp_path):
    save_file(random_state(state), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="x.safetensors is .*I2V.*: image to video of .* cannot be trained here"):
        BACKBONES[name].backbone().load(tmp_path / "x.safetensors")


def test_noise_levels_of_another_size_are_named():
    tiny = BACKBONES["cogvideox 2b"]
    with pytest.raises(ConfigError, match="backbone.family=cogvideox: .* is of the family cogvideox_2b"):
        tiny.backbone(family="cogvideox").build(0)


def test_random_weights_follow_from_the_seed():
    tiny = BACKBONES["cogvideox 5b"]
    one, same, other = (tiny.backbone().build(seed).transformer.state_dict() for seed in (3, 3, 4))
    assert all(one[name].equal(same[name]) for name in one)
    assert not one["proj_out.weight"].equal(other["proj_out.weight"])
    assert {tensor.dtype for tensor in one.values()} == {torch.float32}
