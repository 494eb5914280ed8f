"""Runs that are killed by the operating system, and what they have to end with when they go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .hosts import ROOT, host_environment

MOMENTS = [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 2 else []) for seed in range(10)]
SHARD = "shard-00001-model-00001-of-00001.safetensors"  # what one process writes of a checkpoint


def kill_9(arguments: list[str], ready: Callable[[], bool], wait: float = 0.0) -> None:
    """Starts a Python and kills it, so many seconds after it is ready. Fails where it has ended by then."""
    command = [sys.executable, *arguments]
    environment = host_environment() | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            while process.poll() is None and not ready():
                time.sleep(0.01)
            time.sleep(wait)
            assert process.poll() is None, f"it ended before it could be killed: {process.stdout.read().decode()}"
        finally:
            process.kill()


def assert_bit_equal(first: Path, second: Path, stage: str) -> None:
    """Of two runs the newest checkpoints and the exported files."""
    newest = (sorted((folder / stage / "checkpoints").glob("[0-9]" * 8))[-1] / SHARD for folder in (first, second))
    exported = (folder / stage / f"{stage}.safetensors" for folder in (first, second))
    for paths in (newest, exported):
        one, other = map(load_file, paths)
        assert one.keys() == other.keys()
        different = [key for key in one if not torch.equal(one[key], other[key])]
        assert not different, f"{different[:5]} and {len(different)} in all"
