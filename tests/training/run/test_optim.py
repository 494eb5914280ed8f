"""Optimizers beside the plain ones."""

import sys

import pytest
import torch
from torch import nn

from training.config import ConfigError, OptimizerConfig
from training.run.checkpoint import Checkpoints
from training.run.optim import Learner, build_optimizers
from training.run.world import World

EIGHT = OptimizerConfig(name="adamw8bit", lr=1e-3)


def test_8_bit_adamw_without_torchao_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match="'adamw8bit' needs torchao: pip install torchao, or use adamw"):
        build_optimizers({"a": nn.Parameter(torch.zeros(1))}, EIGHT)


def stepped(learner, network, iterations):
    for iteration in iterations:
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(iteration))
        (network(x) - x).square().mean().backward()
        learner.finite(iteration, 0.0)
        learner.step(iteration, 10)
    return {name: p.detach().clone() for name, p in learner.parameters.items()}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64))


def test_8_bit_adamw_steps_like_adamw_and_goes_on_from_a_checkpoint_bit_for_bit(monkeypatch, tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)  # of its step, for minutes
    small, plain = network(), network()
    world = World(torch.device("cpu"))
    learner, checkpoints = Learner(small, EIGHT, world), Checkpoints(tmp_path, world)
    stepped(learner, small, range(2))
    checkpoints.save(2, learner.state(), learner.tensors())
    held = next(iter(learner.optimizers[0].state.values()))["exp_avg"]
    assert held.codes.dtype == torch.uint8
    other = network()
    resumed = Learner(other, EIGHT, world)
    path, state = checkpoints.newest()
    checkpoints.read(path, resumed.tensors())
    resumed.load(state)
    whole, halves = stepped(learner, small, range(2, 4)), stepped(resumed, other, range(2, 4))
    exact = stepped(Learner(plain, OptimizerConfig(lr=1e-3), world), plain, range(4))
    for name, value in whole.items():
        assert torch.equal(value, halves[name]), name
        assert (value - exact[name]).abs().max() < 4e-4  # of steps that sum to about 4e-3
