"""A run that the operating system killed, at whatever moment, ends with the very bits of a run that it did not kill."""

import random

import pytest
import yaml
from harness.kills import MOMENTS, assert_bit_equal, kill_9

from training import distill

ARCHITECTURE = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 3}


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """Writes a configuration of both stages: ``written(name)`` gives its file and the folder of its results."""
    tmp_path = tmp_path_factory.mktemp("killed")
    teacher = str(trained / "teacher" / "teacher.safetensors")
    each = {"iterations": 6, "ema_decay": 0.9, "optimizer": {"lr": 1e-3}}
    options = {"teacher": teacher, "target_ema": 0.9}
    detail = {"rank": 2, "alpha": 4.0, "real": "data", "discriminator": {"width": 32}}
    config = {
        "device": "cpu",
        "seed": 7,
        "checkpoint_every": 1,
        "backbone": {"name": "shapes", "architecture": ARCHITECTURE},
        "data": {"batch_size": 2},
        "stages": {
            "semantic": {"method": "semantic", "options": options, **each},
            "detail": {"method": "detail", "options": {**options, **detail}, **each},
        },
    }

    def write(name):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**config, "output": str(tmp_path / name)}, sort_keys=False))
        return str(file), tmp_path / name

    return write


@pytest.fixture(scope="module")
def whole(written):
    """What the command leaves that nobody kills."""
    file, folder = written("whole")
    distill.main(["--config", file])
    return folder


@pytest.mark.parametrize("seed", MOMENTS)
def test_kill_9_at_any_moment_and_resume_is_bit_equal(written, whole, capsys, seed):
    """In the first four iterations of either stage: before, within and after the writing of a checkpoint."""
    stage = ("semantic", "detail")[seed % 2]
    file, folder = written(f"killed{seed}")
    written_into, moment = folder / stage / "checkpoints", random.Random(seed).randint(1, 24)
    kill_9(["training/distill.py", "--config", file], written_into, moment)
    assert not (folder / stage / f"{stage}.safetensors").exists()
    distill.main(["--config", file])
    assert "All stages of this configuration are done" in capsys.readouterr().out
    for name in ("semantic", "detail"):
        assert_bit_equal(whole, folder, name)
        assert not list((folder / name / "checkpoints").glob(".*"))
