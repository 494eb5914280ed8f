"""A trainer small enough to run in a test: three layers of width 24 on the real data."""

import pytest
import torch

from training.config import Config, build
from training.trainer import Trainer, build_trainer

ARCHITECTURE = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 3}
DETAIL = {"rank": 4, "alpha": 8.0, "discriminator": {"lr": 1e-3, "width": 32}}
ADAPTER = {"mode": "adapter", "rank": 3, "alpha": 6.0}  # of a semantic expert


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


def tiny_config(folder, stage: str, options: dict | None = None, **settings) -> Config:
    """A configuration with one stage of that name; the method is named like the stage."""
    stage_settings = {"ema_decay", "iterations", "optimizer", "data"}
    values = {key: settings.pop(key) for key in stage_settings & set(settings)}
    return build(
        Config,
        {
            "output": str(folder),
            "stage": stage,
            "device": "cpu",
            "backbone": {"name": "shapes", "architecture": ARCHITECTURE},
            "data": {"batch_size": 4},
            # not the preset, which may move: the golden values hold for this one
            "schedule": {"shift": 3.0, "points": 50, "kappa_index": 29},
            "stages": {
                stage: {
                    "method": stage,
                    "iterations": 2,
                    "optimizer": {"lr": 1e-3},
                    "options": options or {},
                    **values,
                }
            },
            "watch": {"every": 0},
            **settings,
        },
    )


@pytest.fixture(scope="session")
def tiny():
    """Makes such a configuration: ``tiny(folder, stage, options, **settings)``."""
    return tiny_config


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a teacher and a semantic expert, one iteration old each."""
    folder = tmp_path_factory.mktemp("trained")
    for stage in ("teacher", "semantic"):
        build_trainer(tiny_config(folder, stage, iterations=1)).run()
    return folder


@pytest.fixture(scope="session")
def adapted(trained, tmp_path_factory):
    """The file of a semantic expert over that teacher that is an adapter, three iterations old."""
    folder = tmp_path_factory.mktemp("adapted")
    options = {**ADAPTER, "teacher": str(trained / "teacher" / "teacher.safetensors")}
    build_trainer(tiny_config(folder, "semantic", options, iterations=3)).run()
    return folder / "semantic" / "semantic.safetensors"


@pytest.fixture
def trainer(trained, adapted, tmp_path):
    """Builds a trainer of a stage over that teacher and semantic expert, writing into a folder of its own."""

    def build_one(stage: str, options: dict | None = None, **settings) -> Trainer:
        options = dict(options or {})
        if stage != "teacher":
            options.setdefault("teacher", str(trained / "teacher" / "teacher.safetensors"))
        if stage == "detail":
            whole = trained / "semantic" / "semantic.safetensors"
            semantic = adapted if options.get("mode") == "adapter" else whole
            options = {"semantic": str(semantic), **DETAIL, **options}
        return build_trainer(tiny_config(settings.pop("folder", tmp_path), stage, options, **settings))

    return build_one
