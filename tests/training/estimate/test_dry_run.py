"""What a dry run says: the same as the networks themselves say, and what to change where it does not fit."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.config import ConfigError, load_config
from training.data.batch import Conditions
from training.distill import main
from training.estimate.probe import Cost, Counter, cost, counted, fewest
from training.estimate.report import card_size, clip_size, told
from training.estimate.stage import need
from training.methods.teacher import Teacher
from training.registry import build_backbone, estimated

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "training" / "configs").glob("[!a]*.yaml"))


@pytest.mark.parametrize(("stage", "options"), [("semantic", {}), ("detail", {}), ("detail", {"rank": "whole"})])
def test_what_is_trained_is_counted_as_the_trainer_counts_it(trainer, stage, options):
    run = trainer(stage, options)
    method = run.method
    count = sum(p.numel() for p in method.trainable.values())
    assert f" {count / 1e6:.1f} M trained parameters" in estimated(run.config, None, None, 350.0).text
    found = need(run.config, type(method), method.options, build_backbone, None, method.data.latent_shape)
    held = sum(p.numel() * p.element_size() for network in method.networks for p in network.parameters())
    assert found.trained == count and found.weights == pytest.approx(held, rel=0.2)  # and a discriminator's


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


@pytest.mark.parametrize(("real", "dtype"), [("target", "float32"), ("data", "float32"), ("target", "bfloat16")])
def test_an_iteration_with_an_adversary_is_told_as_it_is_counted(trainer, real, dtype):
    """Every second of its blocks is tapped, and both networks have their turn."""
    run = trainer("detail", {"real": real, "discriminator": {"width": 256}}, compute={"dtype": dtype})
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


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_is_told_without_weights_or_clips(file):
    config = load_config(file)
    for name in config.stages:
        text = estimated(config.of_stage(name), None, None, 350.0).text
        assert text.startswith(f"stage {name}: ") and "memory of one GPU, GiB" in text and "FLOP, " in text


@pytest.mark.parametrize("size", ["14b_i2v", "a14b_i2v"])
def test_image_to_video_is_told_with_what_networks_are_told_of_an_image(size):
    config = load_config(next(file for file in CONFIGS if file.stem == "wan2.1_14b_adapter"), [f"backbone.size={size}"])
    assert "FLOP, " in estimated(config.of_stage("semantic"), clip_size("64x64x5"), None, 350.0).text


def test_the_card_that_most_people_own_is_enough_for_its_configuration_as_the_page_says():
    config = load_config(next(file for file in CONFIGS if file.stem == "wan2.1_1.3b_adapter_24gb"))
    most = []
    for name in config.stages:
        text = estimated(config.of_stage(name), None, card_size("22GB"), 350.0).text
        assert "fits a card of 22 GB" in text, text
        most.append(float(re.search(r"GiB: ([\d.]+)", text)[1]))
    page = (ROOT / "training" / "README.md").read_text("utf-8")
    assert f"| 24 GB | `wan2.1_1.3b_adapter_24gb` | {max(most)} |" in page


def test_what_makes_it_smaller_is_named(capsys):
    config = next(file for file in CONFIGS if file.stem == "shapes")
    command = ["--config", str(config), "--dry-run", "--card", "0.2GB", "stage=semantic"]
    main(command)
    told = capsys.readouterr().out
    assert "GiB; 0.18 of the card's 0.2 can be used\nthe semantic stage does not fit; what makes it smaller:\n" in told
    assert "optimizer 0.0076" in told  # and not 0.0
    assert "(assumed; --rate TFLOP for your card)" in told
    main([*command, "--size", "24x24x16"])
    assert "of 24x24x16 (144 tokens)" in capsys.readouterr().out
    main(command[:-1])  # and of all stages once
    hints = capsys.readouterr().out.partition("the teacher and semantic stages do not fit; what makes them smaller:\n")[
        2
    ]
    assert hints.count("compute.checkpointing=full") == 1 and "stages.semantic.options.mode=adapter" in hints
    main(["--config", str(config.with_stem("shapes_quick")), "--dry-run", "--card", "12GB"])
    assert capsys.readouterr().out.endswith(" GiB to spare of what can be used\nboth stages fit\n")


@pytest.mark.parametrize(("read", "text"), [(card_size, "big"), (card_size, "0GB"), (clip_size, "480p")])
def test_sizes_that_cannot_be_read_are_named(read, text):
    with pytest.raises(ConfigError, match=text):
        read(text)


@pytest.mark.parametrize("fused", [None, True, False])
def test_copies_that_the_optimizer_makes_on_a_gpu_are_counted_where_it_makes_any(tiny, tmp_path, fused):
    """One kernel makes none; many make one of all weights, when the activations are gone."""
    weights = [nn.Parameter(torch.randn(100, 100)) for _ in range(3)]
    for p in weights:
        p.grad = torch.ones_like(p)
    asked = {"foreach": True} if fused is False else {"fused": True}  # as PyTorch does on a GPU
    optimizer = torch.optim.AdamW(weights, **asked)
    optimizer.step()
    with Counter() as counter:
        optimizer.step()
    config = tiny(tmp_path, "teacher", optimizer={"fused": fused})
    found = need(config, Teacher, Teacher.Options(), build_backbone, None, None)
    assert counter.peak / (4 * 30000) == pytest.approx(found.copies / (4 * found.trained), abs=1e-3)
    assert replace(found, activations=0).memory == found.weights + found.gradients + found.optimizer + found.copies


def test_copies_that_do_not_fit_are_named_with_the_setting_that_makes_none(tiny, tmp_path):
    config = tiny(tmp_path, "teacher", optimizer={"fused": False})
    found = need(config, Teacher, Teacher.Options(), build_backbone, None, None)
    large = replace(found, activations=0, copies=2**40)
    found = told(config, Teacher.Options(), large, card_size("24GB"), 350.0)
    assert "copies 1024.0" in found.text and "activations" not in found.text
    assert "stages.teacher.optimizer.fused=true" in found.changes


# The largest of both kinds, in main memory: all else that it needs is on the GPU that it speaks of.
LARGEST = [pytest.param(name, marks=pytest.mark.slow) for name in ("hunyuanvideo", "wan2.1_14b_adapter")]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux tells it")
@pytest.mark.parametrize("name", ["wan2.1_1.3b_adapter_24gb", *LARGEST])
def test_a_dry_run_takes_little_memory_whatever_the_model(name):
    """Measured: 0.5 GB, of which the libraries are most."""
    command = [sys.executable, "-c", DRY_RUN, "--config", f"training/configs/{name}.yaml", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[-1]) * 1024 < 1e9


DRY_RUN = """
import re, sys
from pathlib import Path
from training.distill import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def test_several_gpus_share_what_is_split_and_each_has_its_own_clips(trainer):
    run = trainer("detail", {"discriminator": {"width": 256}}, parallel={"shard": None})
    method, config = run.method, run.config

    def asked(gpus, **parallel):
        parts = config.parallel.model_copy(update=parallel)
        told = config.model_copy(update={"parallel": parts})
        return need(told, type(method), method.options, build_backbone, None, method.data.latent_shape, gpus)

    alone, two = asked(1), asked(2)
    assert alone.of_one() == alone and alone.gathered == 0 and two.gathered > 0
    whole, each = alone.weights - 4 * alone.judging, two.of_one().weights - 4 * alone.judging
    assert each == whole // 2, "the discriminator is whole on each"
    assert (alone.at_once, two.at_once) == (4, 2) and two.activations < 0.6 * alone.activations
    assert two.flop == pytest.approx(alone.flop, rel=1e-3)
    copies = asked(2, shard=1)
    assert copies.of_one().weights == alone.weights and not copies.gathered
    text = estimated(config, None, None, 350.0, 2).text
    assert "memory of each of 2 GPUs, GiB: " in text and "at 2 times 350 TFLOP a second" in text


def test_a_dry_run_for_several_gpus_names_what_so_many_cannot_do(capsys):
    config = ["--config", "training/configs/wan2.1_1.3b.yaml", "--dry-run"]
    with pytest.raises(SystemExit, match="data.batch_size=4 of stage semantic cannot be shared equally by 3 processes"):
        main([*config, "--gpus", "3"])
    with pytest.raises(SystemExit):
        main([*config, "--gpus", "0"])
    assert "'0' is no number of GPUs" in capsys.readouterr().err
