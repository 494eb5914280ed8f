"""What a dry run says: the same as the networks themselves say, and what to change where it does not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.config import ConfigError, load_config
from training.data.batch import Conditions
from training.distill import main
from training.estimate.probe import Cost, Counter, cost, counted, fewest
from training.estimate.report import card_size, clip_size
from training.estimate.stage import need
from training.registry import build_backbone, estimated

CONFIGS = sorted((Path(__file__).parents[3] / "training" / "configs").glob("[!a]*.yaml"))


@pytest.mark.parametrize("stage", ["semantic", "detail"])
def test_what_is_trained_is_counted_as_the_trainer_counts_it(trainer, stage):
    run = trainer(stage)
    count = sum(p.numel() for p in run.method.trainable.values())
    assert f" {count / 1e6:.1f} M trained parameters" in estimated(run.config, None, None, 350.0)


def test_a_call_on_no_data_takes_what_it_takes_on_data(trainer):
    """Counted on tensors with data, of a network of more blocks than a dry run looks at."""
    run = trainer("teacher", backbone={"name": "shapes", "architecture": {"num_layers": 5}})
    method, backbone = run.method, run.method.backbone
    latents = method.data.latent_shape
    x, timestep = torch.randn(4, *latents), torch.full((4,), 900.0)
    told = Conditions(torch.randn(4, backbone.text_tokens, 4096))
    real = counted(method.student.network, lambda: method.student(x, timestep, told)[0], trained=True)
    found = need(run.config, type(method), method.options, build_backbone, None, latents)
    assert found.flop == pytest.approx(real.flop, rel=1e-3)
    assert found.activations == pytest.approx(real.memory, rel=0.15)
    assert found.weights == found.gradients == 4 * sum(p.numel() for p in method.student.network.parameters())


@pytest.mark.parametrize("real", ["target", "data"])
def test_an_iteration_with_an_adversary_is_told_as_it_is_counted(trainer, real):
    """Every second of its blocks is tapped, and both networks have their turn."""
    run = trainer("detail", {"real": real, "discriminator": {"width": 256}})
    method = run.method
    with Counter() as counter:
        method.step(0)
    found = need(run.config, type(method), method.options, build_backbone, None, method.data.latent_shape)
    assert found.activations + found.gradients == pytest.approx(counter.peak, rel=0.15)


def test_memory_and_operations_are_counted_in_one_pass():
    layer, x, calls = nn.Conv2d(4, 8, 1), torch.randn(2, 4, 3, 3), []

    def call():
        calls.append(None)
        return layer(x)

    found = counted(layer, call, trained=True)
    with FlopCounterMode(display=False) as expected:
        layer(x).square().mean().backward()
    assert len(calls) == 1 and found.flop == expected.get_total_flops() > 0


def test_blocks_of_each_kind_are_counted_by_themselves():
    def count(depth):
        return Cost(10 + 3 * depth["a"] + 5 * depth["b"], depth["a"], 7 * depth["b"])

    assert cost({"a": 20, "b": 40}, {"a": 1, "b": 2}, count) == Cost(10 + 60 + 200, 20, 280)
    assert cost({"a": 1, "b": 2}, {"a": 1, "b": 2}, count) == count({"a": 1, "b": 2})
    assert fewest({"a": 20, "b": 40}) == {"a": 1, "b": 2} and fewest({"a": 1}) == {"a": 1}


def test_weights_and_gradients_are_not_counted_as_made_by_a_call():
    """A weight is seen through views of it, and the gradients of a call before are no longer there."""
    layer, x = nn.Linear(1000, 1000), torch.randn(1, 1000)
    first, second = (counted(layer, lambda: layer(x), trained=True) for _ in range(2))
    assert first == second and first.memory < 1e6 < 4 * layer.weight.numel()


TOLD_BESIDE = ("cogvideox_5b", "hunyuanvideo")  # of these another size or mode is told in every run
TOLD = [pytest.param(file, marks=[pytest.mark.slow] * (file.stem in TOLD_BESIDE), id=file.stem) for file in CONFIGS]


@pytest.mark.parametrize("file", TOLD)
def test_every_configuration_is_told_without_weights_or_clips(file):
    config = load_config(file)
    for name in config.stages:
        text = estimated(config.of_stage(name), None, None, 350.0)
        assert text.startswith(f"stage {name}: ") and "memory of one GPU, GiB" in text and "PFLOP" in text


@pytest.mark.parametrize("size", ["14b_i2v", "a14b_i2v"])
def test_image_to_video_is_told_with_what_networks_are_told_of_an_image(size):
    config = load_config(next(file for file in CONFIGS if file.stem == "wan2.1_14b_adapter"), [f"backbone.size={size}"])
    assert "PFLOP" in estimated(config.of_stage("semantic"), clip_size("64x64x5"), None, 350.0)


def test_the_card_that_most_people_own_is_enough_for_its_configuration():
    config = load_config(next(file for file in CONFIGS if file.stem == "wan2.1_1.3b_adapter_24gb"))
    for name in config.stages:
        text = estimated(config.of_stage(name), None, card_size("22GB"), 350.0)
        assert "fits a card of 22 GB" in text, text


def test_frozen_weights_in_8_bits_are_half_as_large():
    file = next(file for file in CONFIGS if file.stem == "wan2.1_1.3b_adapter_24gb")

    def weights(*settings: str) -> float:
        config = load_config(file, settings).of_stage("semantic")
        told = estimated(config, clip_size("64x64x5"), None, 350.0)
        return float(re.search(r"weights ([\d.]+)", told)[1])

    of_blocks = 30 * (8 * 1536**2 + 2 * 1536 * 8960) / 2**30  # a byte less for each
    assert weights() - weights("compute.fp8=true") == pytest.approx(of_blocks, abs=0.1)


def test_what_makes_it_smaller_is_named(capsys):
    config = next(file for file in CONFIGS if file.stem == "shapes")
    command = ["--config", str(config), "--dry-run", "--card", "0.2GB", "stage=semantic"]
    main(command)
    told = capsys.readouterr().out
    assert "does not fit a card of 0.2 GB" in told and "stages.semantic.options.mode=adapter" in told
    main([*command, "--size", "24x24x16"])
    assert "of 24x24x16 (144 tokens)" in capsys.readouterr().out


@pytest.mark.parametrize(("read", "text"), [(card_size, "big"), (card_size, "0GB"), (clip_size, "480p")])
def test_sizes_that_cannot_be_read_are_named(read, text):
    with pytest.raises(ConfigError, match=text):
        read(text)
