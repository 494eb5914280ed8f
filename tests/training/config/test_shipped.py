"""The configurations that are shipped: each goes together with the methods, data sets and backbones that it names."""

from pathlib import Path

import pytest

from training.config import Config, build, load_config
from training.distill import main
from training.methods.base import Setup
from training.methods.distillation import DistillationOptions, check_guidance
from training.networks.weights import parameters_without_memory
from training.registry import brought, build_backbone, check

FOLDER = Path(__file__).resolve().parents[3] / "training" / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
PREPARED = [path for path in CONFIGS if load_config(path).data.name == "videos"]
PROMPTS = (FOLDER / "prompts.txt").read_text("utf-8").splitlines()


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@named(CONFIGS)
def test_options_of_all_stages_go_together(path):
    check(load_config(path))


@named(CONFIGS)
def test_the_size_is_one_that_its_family_has(path):
    config = load_config(path)
    with parameters_without_memory():
        build_backbone(config.backbone).build(0)


@named(CONFIGS)
def test_all_stages_have_one_guidance_and_mode(path):
    """The experts run together, and paths are made for both."""
    told = set()
    for stage, options in distillations(load_config(path)):
        check_guidance(Setup(stage, None, None, None), options)
        told.add((options.guidance, options.embedded_guidance, options.mode))
    assert len(told) == 1


def distillations(config: Config):
    methods = brought("methods", "METHOD")
    for name, stage in config.stages.items():
        options = build(methods[stage.method].Options, stage.options)
        if isinstance(options, DistillationOptions):
            yield config.of_stage(name), options


@named(PREPARED)
def test_what_validation_shows_is_in_the_file_that_is_prepared(path):
    config = load_config(path)
    assert config.validation.prompts == PROMPTS
    assert config.data.options["encoders"]


@named(PREPARED)
def test_all_that_is_missing_is_the_prepared_cache(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="cache/.* training/prepare.py"):
        main(["--config", str(path), "--dry-run"])
