"""The configurations that are shipped: each goes together with the methods, data sets and backbones that it names."""

import math
import shlex
from pathlib import Path

import pytest
from harness.tiny_backbones import BACKBONES, Noise
from safetensors.torch import save_file

from training import prepare, trainer
from training.config import Config, ConfigError, build, load_config
from training.methods.base import Setup
from training.methods.distillation import DistillationOptions, check_guidance
from training.networks.weights import parameters_without_memory
from training.registry import brought, build_backbone, build_data, check

FOLDER = Path(__file__).resolve().parents[3] / "training" / "configs"
CONFIGS = sorted(FOLDER.glob("[!a]*.yaml"))  # an ablation is none
PREPARED = [path for path in CONFIGS if not path.stem.startswith("shapes")]
PAGES = "".join(page.read_text("utf-8") for page in (FOLDER.parents[1] / "docs" / "training").glob("*.md"))
TINY = {"wan": "wan t2v", "hunyuan_video": "hunyuan_video", "cogvideox": "cogvideox 5b", "cogvideox_2b": "cogvideox 2b"}
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
    """The experts run together, and paths are made for both; each model of a pair has a guidance of its own."""
    told = set()
    for stage, options in distillations(load_config(path)):
        check_guidance(Setup(stage, None, None, None), options)
        told.add((stage.part or options.guidance, options.embedded_guidance, options.mode))
    assert len(told) == (2 if stage.pair else 1)


def distillations(config: Config):
    methods = brought("methods", "METHOD")
    for name, stage in config.stages.items():
        options = build(methods[stage.method].Options, stage.options)
        if isinstance(options, DistillationOptions):
            yield config.of_stage(name), options


@named(PREPARED)
def test_both_stages_train_a_tiny_network(path, tmp_path, monkeypatch):
    tiny = BACKBONES[TINY[load_config(path).backbone.family]]
    files = [tmp_path / noise / "backbone.safetensors" for noise in ("high", "low")]  # of one name, as some pairs are
    for file in files:
        file.parent.mkdir()
        save_file(tiny.backbone().comfy_state(tiny.network()), file)
    monkeypatch.setattr(trainer, "build_training_data", lambda config: Noise(tiny))
    for stage in ("semantic", "detail"):
        config = load_config(path, [f"output={tmp_path}", "device=cpu", f"stage={stage}", "watch.every=0",
                                    "validation.every=0", f"stages.{stage}.iterations=1"])  # fmt: skip
        config.backbone.architecture = tiny.architecture
        if config.pair:
            config.pair.high_noise, config.pair.low_noise = map(str, files)
        else:
            config.backbone.weights = str(files[0])
        run = trainer.build_trainer(config)
        run.run()
        assert all(math.isfinite(value) for value in run.method.step(1).values())
        assert (tmp_path / stage / f"{stage}.safetensors").is_file()


@named(CONFIGS)
def test_the_page_of_its_backbone_has_a_row_for_it(path):
    assert f"`{path.stem}`" in PAGES


@named(PREPARED)
def test_what_validation_shows_is_in_the_file_that_is_prepared(path):
    config = load_config(path)
    assert config.validation.prompts == PROMPTS
    assert config.data.options["encoders"]


@named(PREPARED)
def test_all_that_is_missing_is_the_prepared_cache(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(path, ["stage=semantic", "device=cpu"])
    with pytest.raises(ConfigError, match="There is no cache at ") as caught:
        trainer.build_trainer(config)
    python, script, *words = shlex.split(str(caught.value).partition("capitals: ")[2])
    assert (python, script) == ("python", "training/prepare.py")
    options = prepare._parser().parse_args(words)
    wanted = config.data.options
    assert (options.backbone, options.weights, str(options.output)) == (
        config.backbone.name, wanted["encoders"], wanted["cache"],
    )  # fmt: skip
    assert options.prompts and (options.data is None) == (config.data.source == "teacher")


def test_the_command_for_a_cache_of_first_frames_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["stage=semantic", "backbone.size=14b_i2v", "data.options.negative_prompt=true"]
    with pytest.raises(ConfigError, match="--image-to-video .*--negative-prompt NEGATIVE_PROMPT"):
        build_data(load_config(FOLDER / "wan2.1_14b_adapter.yaml", overrides))
