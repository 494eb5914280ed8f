"""Runs that are killed by the operating system, and what they have to end with when they go on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .hosts import ROOT, host_environment

MOMENTS = [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 2 else []) for seed in range(10)]
SHARD = "shard-00001-model-00001-of-00001.safetensors"  # what one process writes of a checkpoint


def kill_9(arguments: list[str], folder: Path, moment: int) -> None:
    """Runs a script, which the system kills when it opens a file below ``folder`` to write it, or renames one, for the
    ``moment``-th time, which is the same however fast the machine is. Fails where it ends before.
    """
    command = [sys.executable, "-c", _COUNTED, str(folder), str(moment), *arguments]
    environment = host_environment() | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, f"it ended by itself: {ended.stdout.decode()}{ended.stderr.decode()}"


_COUNTED = """
import os, runpy, signal, sys
folder, left, process = sys.argv[1], int(sys.argv[2]), os.getpid()
def count(event, told):
    global left
    writes = event == "os.rename" or (event == "open" and told[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and os.getpid() == process and str(told[0]).startswith(folder):
        left -= 1
        if left == 0:
            os.kill(process, signal.SIGKILL)
sys.addaudithook(count)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def assert_bit_equal(first: Path, second: Path, stage: str) -> None:
    """Of two runs the newest checkpoints and the exported files."""
    newest = (sorted((folder / stage / "checkpoints").glob("[0-9]" * 8))[-1] / SHARD for folder in (first, second))
    exported = (folder / stage / f"{stage}.safetensors" for folder in (first, second))
    for paths in (newest, exported):
        one, other = map(load_file, paths)
        assert one.keys() == other.keys()
        different = [key for key in one if not torch.equal(one[key], other[key])]
        assert not different, f"{different[:5]} and {len(different)} in all"
