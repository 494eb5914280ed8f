"""Each adapter calls diffusers' class as diffusers' own pipelines do, and gives the tokens on the way."""

from dataclasses import replace

import pytest
import torch
from harness.tiny_backbones import BACKBONES

from training.config import ConfigError

EVERY = pytest.mark.parametrize("name", BACKBONES)
TIMESTEP = torch.tensor([981.8, 412.25])


@EVERY
@torch.no_grad()
def test_velocity_is_that_of_the_class_called_by_hand(name):
    tiny = BACKBONES[name]
    network, x, told = tiny.network(), tiny.noise(), tiny.conditions()
    by_hand = tiny.by_hand(network.transformer, x, TIMESTEP, told)
    velocity, features = network(x, TIMESTEP, told)
    assert features is None and velocity.shape == x.shape
    assert torch.allclose(velocity, by_hand, atol=1e-5), (velocity - by_hand).abs().max()
    assert not torch.allclose(velocity, network(x, TIMESTEP + 9, told)[0], atol=1e-3)


@EVERY
def test_features_are_the_tokens_after_every_so_many_blocks(name):
    tiny = BACKBONES[name]
    network, x, told = tiny.network(), tiny.noise().requires_grad_(), tiny.conditions()
    velocity, features = network(x, TIMESTEP, told, 1)
    channels, layers = tiny.backbone().feature_shape(network, 1)
    assert len(features.tokens) == len(features.velocities) == layers == len(network.tapped)
    assert {each.shape for each in features.tokens} == {(2, torch.Size(features.grid).numel(), channels)}
    # After the last block they are what the output is made of.
    assert torch.allclose(features.velocities[-1], velocity, atol=1e-5)
    assert not torch.allclose(features.velocities[0], velocity, atol=1e-2)
    features.tokens[0].square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert len(network(x, TIMESTEP, told, 2)[1].tokens) == tiny.backbone().feature_shape(network, 2)[1]


@EVERY
@torch.no_grad()
def test_a_network_in_bfloat16_takes_and_gives_float32(name):
    tiny = BACKBONES[name]
    network, x, told = tiny.network(), tiny.noise(), tiny.conditions()
    wide = network(x, TIMESTEP, told)[0]
    velocity, features = network.bfloat16()(x, TIMESTEP, told, 1)
    assert velocity.dtype == features.velocities[0].dtype == torch.float32
    assert (velocity - wide).norm() < 0.1 * wide.norm()


@pytest.mark.parametrize("name", ["wan t2v", "wan i2v", "hunyuan_video"])
@torch.no_grad()
def test_padding_changes_nothing(name):
    tiny = BACKBONES[name]
    network, x, told = tiny.network(), tiny.noise(), tiny.conditions()
    velocity = network(x, TIMESTEP, told)[0]
    other = torch.where(told.mask.unsqueeze(-1), told.text, torch.randn_like(told.text))
    shorter = tiny.tokens + 1
    for text, mask in ((other, told.mask), (told.text[:, :shorter], told.mask[:, :shorter])):
        assert torch.allclose(network(x, TIMESTEP, replace(told, text=text, mask=mask))[0], velocity, atol=1e-6)
    assert not torch.allclose(network(x, TIMESTEP, replace(told, mask=None))[0], velocity, atol=1e-3)


@torch.no_grad()
def test_guidance_is_told_in_float32():
    """bfloat16 would make 6016 of 6000 and of every scale from 5.99 to 6.02."""
    tiny = BACKBONES["hunyuan_video"]
    network, x, told = tiny.network().bfloat16(), tiny.noise(), tiny.conditions()
    seen = []
    network.embedder.time_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network(x, TIMESTEP, replace(told, text=told.text.bfloat16()).told(6.01))
    timestep, guidance = seen
    assert timestep.equal(TIMESTEP) and guidance.equal(torch.full((2,), 6.01) * 1000)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("wan t2v", {"image": torch.ones(2, 20, 3, 4, 6)}, "takes 16 channels, .* together have 36"),
        ("wan 2.2 i2v", {"image": None}, "takes 36 channels, .* together have 16"),
        ("wan i2v", {"vision": None}, "takes an embedded image, and is given none"),
        ("wan 2.2 i2v", {"vision": torch.ones(2, 257, 1280)}, "takes no embedded image, and is given one"),
        ("wan t2v", {"text": torch.ones(2, 513, 14), "mask": None}, "up to 512 tokens, and is given 513"),
        ("hunyuan_video", {"pooled": None}, "told a pooled text, and is given none"),
        ("hunyuan_video", {"guidance": None}, "told an embedded guidance, and is given none"),
        ("cogvideox 5b", {"text": torch.ones(2, 12, 14)}, "texts of 226 tokens, padding among them, and is given 12"),
    ],
)
def test_what_a_network_is_not_told_is_named(name, changes, words):
    tiny = BACKBONES[name]
    with pytest.raises(ConfigError, match=words):
        tiny.network()(tiny.noise(), TIMESTEP, replace(tiny.conditions(), **changes))


def test_frames_that_make_no_pairs_are_named():
    tiny = BACKBONES["cogvideox 1.5"]
    with pytest.raises(ConfigError, match="latent frames in pairs, and is given 3"):
        tiny.network()(tiny.noise()[:, :, :3], TIMESTEP, tiny.conditions())
