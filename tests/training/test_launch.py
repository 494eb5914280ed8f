"""The launch files: what they ask of torchrun, which takes it, and what of the trainer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import get_args_parser

from training import distill

FOLDER = Path(__file__).resolve().parents[2] / "training" / "launch"
STANDINS = {"torchrun": 'echo "$@" > "$TOLD"', "srun": 'exec "$@"', "scontrol": "printf 'node-a\\nnode-b\\n'"}
SETTINGS = ["--config", "mine.yaml", "device=cuda"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="they are shell scripts")


@pytest.fixture
def launched(tmp_path):
    """What torchrun understands of a file that is run: ``launched(command, **environment)``."""
    for name, does in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    told = tmp_path / "told"

    def launch(*command: str, **environment: str):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        told_of = {**os.environ, "PATH": path, "TOLD": str(told), **environment}
        subprocess.run(command, cwd=FOLDER.parents[1], env=told_of, check=True)
        return get_args_parser().parse_args(told.read_text().split())

    return launch


def test_one_node_takes_all_its_gpus_or_so_many(launched):
    command = "sh", str(FOLDER / "one_node.sh"), *SETTINGS
    for environment, processes in (({}, "gpu"), ({"GPUS": "2"}, "2")):
        asked = launched(*command, **environment)
        assert asked.standalone and asked.nproc_per_node == processes
        assert [asked.training_script, *asked.training_script_args] == ["training/distill.py", *SETTINGS]


def test_several_nodes_meet_at_one_of_them(launched):
    asked = launched("sh", str(FOLDER / "several_nodes.sh"), *SETTINGS, NODES="2", HEAD="node-a")
    assert (asked.nnodes, asked.nproc_per_node, asked.rdzv_endpoint) == ("2", "gpu", "node-a:29500")
    assert [asked.training_script, *asked.training_script_args] == ["training/distill.py", *SETTINGS]


def test_slurm_gives_the_nodes_and_names_output_and_stage(launched):
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node-[a-b]"}
    asked = launched("bash", str(FOLDER / "slurm.sbatch"), "runs/mine", "semantic", *SETTINGS, **slurm)
    assert (asked.nnodes, asked.nproc_per_node, asked.rdzv_endpoint) == ("2", "8", "node-a:29500")
    assert asked.rdzv_id == "7"
    assert asked.training_script_args == [*SETTINGS, "output=runs/mine", "stage=semantic"]


def test_the_report_that_torchrun_ends_with_has_the_reason(tmp_path, monkeypatch):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    with pytest.raises(SystemExit, match="Did you mean 'data'") as left:
        distill.main(["--config", "training/configs/shapes_quick.yaml", "dta.batch_size=3"])
    report = ChildFailedError("distill.py", {0: ProcessFailure(0, 1, 1, str(file))}).format_msg()
    assert f"traceback : {left.value}" in report
