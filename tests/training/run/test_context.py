"""Two processes that share a clip's tokens make of it what one makes, gradients included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness.shared_clips import CASES, measured
from harness.tiny_backbones import BACKBONES
from safetensors.torch import load_file

from training.config import ConfigError
from training.networks.context import Context
from training.run.world import World

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What two processes make of all cases."""
    file = tmp_path_factory.mktemp("shared") / "found.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [*command, "-m", "harness.shared_clips", str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return load_file(file)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_that_share_a_clip_give_what_one_gives(shared, name):
    expected = measured(name, World(torch.device("cpu")))
    assert {key for key in shared if key.startswith(f"{name}: ")} == expected.keys()
    for key, wanted in expected.items():
        assert torch.allclose(shared[key], wanted, rtol=1e-4, atol=1e-6), (key, (shared[key] - wanted).abs().max())


def test_a_network_whose_attention_cannot_be_shared_is_refused_by_name():
    alone: Any = BACKBONES["cogvideox 5b"].network()
    with pytest.raises(ConfigError, match="parallel.context: .* with CogVideoXTransformer3DModel, .* Leave it at 1"):
        alone.share_context(None)


def test_processes_without_gpus_are_told_that_they_share_no_clip(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    transformer = SimpleNamespace(config=SimpleNamespace(num_attention_heads=4))
    mesh: Any = {"ulysses": SimpleNamespace(size=lambda: 2)}
    with pytest.raises(ConfigError, match="parallel.context: .* among GPUs alone. Leave it out"):
        Context(transformer, mesh, {})
