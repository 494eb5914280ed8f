"""A method, a backbone adapter and a data set are each one added file."""

import re
import sys
from inspect import cleandoc
from pathlib import Path

import pytest

from training.config import BackboneConfig, Config, ConfigError, build, load_config
from training.registry import build_backbone, check
from training.trainer import build_trainer

ADDED = {
    "methods": """
        from __future__ import annotations
        from training.config import MethodOptions
        from training.methods.teacher import Teacher

        class StillOptions(MethodOptions):
            shift: float = 1.0
            guidance: float = 1.0
            pull: float = 0.5

        class Still(Teacher):
            Options = StillOptions

            def turns(self, batch, draws):
                for learner, losses in super().turns(batch, draws):
                    yield learner, losses | {"pull": self.options.pull * batch.latents.square().mean()}

        METHOD = Still
    """,
    "backbones": """
        from training.backbones.wan import WanBackbone

        class Narrow(WanBackbone):
            architecture = WanBackbone.architecture | {
                "num_attention_heads": 1, "attention_head_dim": 12, "ffn_dim": 16, "num_layers": 1,
            }

        BACKBONE = Narrow
    """,
    "data": """
        import torch
        from dataclasses import replace
        from training.data.shapes import ShapesData

        class Ones(ShapesData):
            def batch(self, draws):
                batch = super().batch(draws)
                return replace(batch, latents=torch.ones_like(batch.latents))

        DATA = Ones
    """,
}


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Adds a file to a folder of the trainer, for this test: ``added(folder, name, text)``."""
    modules = []

    def add(folder: str, name: str, text: str) -> None:
        package, home = sys.modules[f"training.{folder}"], tmp_path / folder
        home.mkdir()
        (home / f"{name}.py").write_text(cleandoc(text))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(home)])
        modules.append(f"{package.__name__}.{name}")

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def test_each_is_one_added_file(added, tmp_path):
    for folder, name in (("methods", "still"), ("backbones", "narrow"), ("data", "ones")):
        added(folder, name, ADDED[folder])
    values = {
        "output": str(tmp_path),
        "stage": "first",
        "device": "cpu",
        "backbone": {"name": "narrow", "family": "shapes"},
        "data": {"name": "ones", "batch_size": 2},
        "stages": {"first": {"method": "still", "iterations": 1, "options": {"pull": 0.25}}},
    }
    method = build_trainer(build(Config, values)).method
    assert type(method).__name__ == "Still" and len(method.student.network.blocks) == 1
    assert method.step(0)["pull"] == 0.25


def test_the_page_of_an_own_method_and_backbone_trains_them_to_the_end(added, tmp_path):
    """Its three files as they stand there, for fewer iterations."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "training" / "write_your_own.md").read_text("utf-8")
    files = dict(re.findall(r"```\w+\n# training/(\S+)\n(.+?)```", page, re.DOTALL))
    assert list(files) == ["methods/anchored.py", "backbones/small_shapes.py", "configs/mine.yaml"]
    for file, text in files.items():
        if file.endswith(".py"):
            added(*file.removesuffix(".py").split("/"), text)
    file = tmp_path / "mine.yaml"
    file.write_text(files["configs/mine.yaml"])
    few = [
        "stages.teacher.iterations=2",
        "stages.mine.iterations=2",
        "log_every=1",
        "watch.every=0",
        "validation.every=0",
    ]
    config = load_config(file, [f"output={tmp_path}", *few])
    check(config)
    for stage in config.stages:
        run = build_trainer(config.of_stage(stage))
        assert len(run.method.student.network.blocks) == 2
        run.run()
    assert (tmp_path / "mine" / "mine.safetensors").exists()
    logged = (tmp_path / "mine" / "log.jsonl").read_text()
    assert '"anchor"' in logged and '"consistency"' in logged


def test_what_is_added_is_listed_and_what_only_helps_is_not(added):
    added("backbones", "narrow", ADDED["backbones"])
    for name in ("features", "base", "wam", "..config", ""):
        with pytest.raises(ConfigError, match=r"; use cogvideox, hunyuan_video, shapes, wan or narrow\.$"):
            build_backbone(BackboneConfig(name=name, family="shapes"))


def test_a_file_that_cannot_be_imported_is_not_called_unknown(added):
    added("backbones", "needy", "import a_package_that_nobody_has\nBACKBONE = None")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        build_backbone(BackboneConfig(name="needy", family="shapes"))


def test_the_shapes_backbone_has_the_size_of_the_shipped_weights():
    from dcm_core.shapes import weights

    backbone = build_backbone(BackboneConfig(name="shapes"))
    assert backbone.family == "shapes"
    assert backbone.load(weights.teacher()).transformer.config.num_layers == 5
