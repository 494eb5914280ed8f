"""A run that was interrupted ends with the very bits of a run that was not."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from training.config import ConfigError
from training.run.checkpoint import load_state, save_state

ROOT = Path(__file__).resolve().parents[3]
FILES = ("checkpoint.safetensors", "{stage}.safetensors")


def assert_bit_equal(first: Path, second: Path, stage: str) -> None:
    for name in FILES:
        one, other = (load_file(folder / stage / name.format(stage=stage)) for folder in (first, second))
        assert one.keys() == other.keys()
        different = [key for key in one if not torch.equal(one[key], other[key])]
        assert not different, f"{name}: {different[:5]} and {len(different)} in all"


SETTINGS = {
    "teacher": ({}, {"ema_decay": 0.9, "optimizer": {"name": "muon", "lr": 1e-3, "schedule": "cosine"}}),
    "semantic": ({"target_ema": 0.9}, {"ema_decay": 0.9}),
    "detail": ({"target_ema": 0.9, "real": "data"}, {}),
}


@pytest.mark.parametrize("stage", SETTINGS)
def test_a_resumed_run_is_bit_equal(trainer, tmp_path, stage):
    options, settings = SETTINGS[stage]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    trainer(stage, options, iterations=4, folder=whole, **settings).run()
    first = trainer(stage, options, iterations=4, folder=halves, checkpoint_every=2, **settings)

    class Killed(Exception): ...

    step = first.method.step

    def killed_in_the_fourth(iteration):
        if iteration == 3:
            raise Killed  # one iteration after the checkpoint: that one has to be repeated
        return step(iteration)

    first.method.step = killed_in_the_fourth
    with pytest.raises(Killed):
        first.run()
    second = trainer(stage, options, iterations=4, folder=halves, checkpoint_every=2, **settings)
    second.run()
    assert_bit_equal(whole, halves, stage)
    longer = trainer(stage, options, iterations=5, folder=tmp_path / "longer", **settings)
    longer.run()
    with pytest.raises(AssertionError):  # the comparison notices one iteration more
        assert_bit_equal(whole, tmp_path / "longer", stage)


def test_kill_9_in_mid_training_and_resume_is_bit_equal(tmp_path):
    """The real command, killed by the operating system wherever it happens to be after its second checkpoint."""
    config = {
        "device": "cpu",
        "seed": 7,
        "checkpoint_every": 2,
        "backbone": {
            "name": "shapes",
            "architecture": {
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "ffn_dim": 32,
                "num_layers": 2,
            },
        },
        "data": {"batch_size": 2},
        "stages": {
            "teacher": {"method": "teacher", "iterations": 40, "optimizer": {"lr": 1e-3}, "ema_decay": 0.9},
            "semantic": {"method": "semantic", "iterations": 2},
        },
    }
    command = {}
    for name in ("whole", "killed"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**config, "output": str(tmp_path / name)}, sort_keys=False))
        command[name] = [sys.executable, "training/distill.py", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

    subprocess.run(command["whole"], check=True, **options)
    process = subprocess.Popen(command["killed"], **options)
    checkpoint = tmp_path / "killed" / "teacher" / "checkpoint.safetensors"
    try:
        while process.poll() is None and not (checkpoint.exists() and load_state(checkpoint)["iteration"] >= 4):
            time.sleep(0.01)
        assert process.poll() is None, f"it ended before it could be killed: {process.stdout.read().decode()}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert 4 <= load_state(checkpoint)["iteration"] < 40
    output = subprocess.run(command["killed"], check=True, **options).stdout.decode()
    assert "continued from iteration" in output
    for stage in ("teacher", "semantic"):
        assert_bit_equal(tmp_path / "whole", tmp_path / "killed", stage)


def test_disk_full_while_saving_keeps_the_old_checkpoint(trainer, monkeypatch):
    run = trainer("teacher", iterations=2, checkpoint_every=1)
    run.run()
    before = run.checkpoints.newest.read_bytes()
    run.method.step(2)

    def full(file, tensors, metadata):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.run.checkpoint.write_tensors", full)
    with pytest.raises(OSError, match="disk is full.*former file is unchanged"):
        run.save()
    assert run.checkpoints.newest.read_bytes() == before
    assert not list(run.folder.glob(".*tmp"))


def test_state_keeps_every_kind_of_value(tmp_path):
    state = {
        "iteration": 3,
        "optimizers": [
            {"state": {0: {"step": torch.tensor(2.0)}, 1: {}}, "groups": [{"lr": 1e-3, "betas": [0.9, 0.95]}]}
        ],
        "none": None,
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    save_state(tmp_path / "state.safetensors", state)
    loaded = load_state(tmp_path / "state.safetensors")
    assert torch.equal(loaded.pop("half"), state.pop("half"))
    assert loaded == state


def test_a_damaged_checkpoint_is_named(trainer):
    run = trainer("teacher")
    run.run()
    run.checkpoints.newest.write_bytes(run.checkpoints.newest.read_bytes()[:-100])
    with pytest.raises(OSError, match="Could not read the checkpoint .*checkpoint.safetensors.*none before it"):
        trainer("teacher").run()


def test_a_checkpoint_with_a_changed_byte_is_damaged_and_the_one_before_it_steps_in(trainer, caplog):
    run = trainer("teacher")
    run.run()
    run.save()
    content = bytearray(run.checkpoints.newest.read_bytes())
    content[-5] ^= 1
    run.checkpoints.newest.write_bytes(content)
    assert run.checkpoints.load()["iteration"] == run.iteration
    assert "its content is not what was written" in caplog.text and "Going on from the one before it" in caplog.text


@pytest.mark.parametrize("asked", ["open", "safe_open"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("can't allocate memory"),
    ],
    ids=["memory", "permission", "disk", "allocator"],
)
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_taken_for_damaged(trainer, monkeypatch, caplog, asked, error):
    run = trainer("teacher", iterations=2, checkpoint_every=1)
    run.run()
    before = {path.name: path.read_bytes() for path in run.folder.glob("checkpoint.*")}
    assert len(before) == 2

    def refused(path, *_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(f"training.run.checkpoint.{asked}", refused, raising=False)
        reason = str(error) or "MemoryError"
        with pytest.raises(OSError, match="Could not read the checkpoint .*checkpoint.safetensors just now") as told:
            trainer("teacher", iterations=3).run()
        assert reason in str(told.value)
    assert "Going on from" not in caplog.text
    assert {path.name: path.read_bytes() for path in run.folder.glob("checkpoint.*")} == before
    assert trainer("teacher", iterations=3).checkpoints.load()["iteration"] == 2


def test_a_checkpoint_of_another_version_is_refused(trainer):
    """As versions before the first number wrote it: no version in the header."""
    run = trainer("teacher")
    run.run()
    state = json.dumps({"__dict__": [["iteration", 1], ["method", {"__dict__": []}]]})
    save_file({"unused": torch.zeros(1)}, run.checkpoints.newest, {"state": state})
    with pytest.raises(ConfigError, match="checkpoint.safetensors is of version 1, this trainer reads version 4"):
        trainer("teacher").run()


def test_a_checkpoint_without_the_average_that_is_asked_for_is_refused(trainer):
    trainer("teacher").run()
    with pytest.raises(ConfigError, match="stages.teacher.ema_decay was not set and is 0.9 now"):
        trainer("teacher", iterations=3, ema_decay=0.9).run()


def test_a_checkpoint_of_another_configuration_is_refused(trainer):
    trainer("detail").run()
    with pytest.raises(ConfigError, match="stages.detail.options.rank was 4 and is 3 now"):
        trainer("detail", {"rank": 3}).run()


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_the_checkpoint_before_a_damaged_one_is_used_and_named(trainer, tmp_path, caplog, capsys, damage):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    trainer("teacher", iterations=3, checkpoint_every=1, folder=whole).run()
    first = trainer("teacher", iterations=2, checkpoint_every=1, folder=damaged)
    first.run()
    newest = first.checkpoints.newest
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-100])
    else:
        newest.unlink()
    second = trainer("teacher", iterations=3, checkpoint_every=1, folder=damaged)
    second.run()
    assert "Could not read the checkpoint" in caplog.text and "checkpoint.former.safetensors" in caplog.text
    assert "continued from iteration 1" in capsys.readouterr().out
    assert_bit_equal(whole, damaged, "teacher")
    assert load_state(second.checkpoints.former)["iteration"] == 2  # and never the damaged one
    assert (newest.with_name("checkpoint.damaged.safetensors")).exists() == (damage == "cut")


def test_where_files_have_no_second_name_the_former_checkpoint_is_a_copy(trainer, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", unsupported)
    run = trainer("teacher", iterations=2, checkpoint_every=1)
    run.run()
    assert [load_state(path)["iteration"] for path in (run.checkpoints.former, run.checkpoints.newest)] == [1, 2]


def test_a_resumed_run_logs_every_iteration_once(trainer):
    settings = {"iterations": 4, "checkpoint_every": 2, "log_every": 1}
    first = trainer("teacher", **settings)
    step = first.method.step

    def killed_in_the_fourth(iteration):
        if iteration == 3:
            raise KeyboardInterrupt
        return step(iteration)

    first.method.step = killed_in_the_fourth
    with pytest.raises(KeyboardInterrupt):
        first.run()
    log = first.folder / "log.jsonl"
    log.write_text(log.read_text() + '{"iteration": 4, "fl')  # cut off by a kill
    trainer("teacher", **settings).run()
    assert [json.loads(line)["iteration"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]
