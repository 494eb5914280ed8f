"""A pair of models, of which the first takes the high noise: each stage over its own alone, and paths through both."""

from __future__ import annotations

import json
import math
import weakref
from dataclasses import replace

import pytest
import torch
from harness.tiny_backbones import BACKBONES, Noise
from safetensors.torch import load_file, save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.expert.file import load_expert
from dcm_core.families.presets import find_family
from dcm_core.sampling import with_experts
from dcm_core.schedule.experts import ExpertSchedule
from training import analyze, distill, paths, registry
from training.backbones.base import Backbone
from training.config import Config, ConfigError, build, to_yaml
from training.data.paths import PathCache
from training.estimate.paths import plan
from training.evaluation.recipe import training_data
from training.registry import check
from training.trainer import build_trainer

TINY = BACKBONES["wan t2v"]
POINTS = 12
GUIDANCE = {"semantic": 4.0, "detail": 3.0}
OPTIONS = {
    "semantic": {"mode": "adapter", "rank": 2, "alpha": 4.0, "tc_lag": 1},
    "detail": {"mode": "adapter", "rank": 2, "alpha": 4.0, "feature_stride": 1, "discriminator": {"width": 16}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The files of both, of one shape and with nothing else in common."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("high", "low")):
        save_file(TINY.backbone().comfy_state(TINY.network(seed)), folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in ("high", "low")}


@pytest.fixture
def config(models, tmp_path, monkeypatch):
    """Makes a configuration of both stages over noise for data: ``config(stage, **settings)``."""
    monkeypatch.setattr(registry, "build_data", lambda settings: Noise(TINY))

    def made(stage: str = "", options: dict | None = None, **settings) -> Config:
        stages = {
            name: {
                "method": name,
                "iterations": 1,
                "optimizer": {"lr": 0.01},
                "options": {"guidance": GUIDANCE[name], **OPTIONS[name], **(options or {}).get(name, {})},
            }
            for name in GUIDANCE
        }
        values = {
            "output": str(tmp_path / "run"),
            "stage": stage,
            "device": "cpu",
            "backbone": {"name": "wan", "title": "Tiny", "architecture": TINY.architecture},
            "pair": {"high_noise": models["high"], "low_noise": models["low"]},
            "schedule": {"points": POINTS},
            "stages": stages,
            "watch": {"every": 0},
            "paths": {"prompts": str(tmp_path / "prompts.txt"), "count": 2, "batch_size": 2},
        }
        (tmp_path / "prompts.txt").write_text("one\ntwo\n")
        return build(Config, {**values, **settings})

    return made


@pytest.mark.parametrize("mode", ["adapter", "full"])
def test_each_expert_says_what_it_lies_over_and_with_which_guidance(config, models, mode, tmp_path):
    pair = find_family("wan").pair
    grid = replace(pair.grid, points=POINTS)
    made = config(options={"semantic": {"mode": mode}})
    for stage, model in (("semantic", "high"), ("detail", "low")):
        build_trainer(made.of_stage(stage)).run()
        expert = load_expert(tmp_path / "run" / stage / f"{stage}.safetensors")
        told = expert.metadata
        assert told.pair and told.guidance == GUIDANCE[stage]
        assert told.backbone == f"Tiny, {model}-noise model"
        assert told.schedule == ExpertSchedule(grid, grid.cut("boundary", pair.text))
        for name, path in models.items():
            with BackboneFile.open(path) as file:
                report = file.check_fit(expert)
            assert report.ok and bool(report.warnings) == (name != model), report.describe()


@torch.no_grad()
def test_the_detail_expert_begins_as_the_low_noise_model_itself(config, models):
    """And needs no semantic expert, before it or in a file."""
    method = build_trainer(config("detail")).method
    conditions, x, sigma = method.data.conditions(["", ""]), TINY.noise(), torch.tensor([0.2, 0.8])
    low = TINY.backbone().load(models["low"])
    assert torch.equal(method.student_alone(conditions)(x, sigma), method.model(low, conditions)(x, sigma))
    assert method.student.network is method.teacher.network and not method.student.adapters[1:]


@pytest.mark.parametrize("stage", GUIDANCE)
def test_each_stage_trains_within_its_own_noise_levels(config, stage, monkeypatch):
    made = build_trainer(config(stage)).method
    seen = []
    timestep = made.process.timestep
    monkeypatch.setattr(type(made.process), "timestep", lambda self, sigma: (seen.append(sigma), timestep(sigma))[1])
    for iteration in range(4):
        made.step(iteration)
    kappa = torch.tensor(made.schedule.kappa_sigma).float()
    levels = torch.cat([each.flatten() for each in seen])
    assert (levels >= kappa if stage == "semantic" else levels <= kappa).all()


@pytest.fixture
def loaded(monkeypatch):
    """The networks that were loaded from files, and are still there."""
    alive, most = weakref.WeakSet(), []
    load = Backbone.load

    def noted(self, *args, **kwargs):
        network = load(self, *args, **kwargs)
        alive.add(network)
        most.append(len(alive))
        return network

    monkeypatch.setattr(Backbone, "load", noted)
    return most


@torch.no_grad()
def test_paths_go_through_both_models_of_which_one_is_there_at_a_time(config, models, loaded, tmp_path):
    made = config(data={"source": "teacher"})
    paths.run(made, dry_run=False)
    assert loaded == [1, 1]
    high, low = (PathCache.read(tmp_path / "run" / "paths" / name) for name in ("high_noise", "low_noise"))
    method = build_trainer(made.of_stage("detail")).method
    told = method.data.conditions(low.plan.captions([0, 1]))
    ends = {"high": high, "low": low}
    guided = {}
    for name, scale in (("high", 4.0), ("low", 3.0)):
        network = TINY.backbone().load(models[name])
        guided[name] = method.guided(lambda *args, of=network: of(*args), told, scale)
        assert ends[name].plan.recipe.guidance == scale
    every = [*method.schedule.grid.sigmas.flip(0).tolist(), 0.0]
    noise = high.states([0, 1], [0])[:, 0]
    expected = method.followed(with_experts(guided["high"], guided["low"], method.schedule), noise, every)
    torch.testing.assert_close(low.states([0, 1], [-1])[:, 0], expected)
    assert torch.equal(low.states([0, 1], [0]), high.states([0, 1], [-1])), "the one goes on where the other stops"
    assert low.plan.levels[0] == pytest.approx(method.schedule.kappa_sigma)
    for stage, cache in (("semantic", high), ("detail", low)):  # as a dry run says before
        said = plan(made.of_stage(stage), method.options, TINY.shape)
        assert said is not None and (said.nodes, said.levels) == (cache.plan.nodes, cache.plan.levels)


def test_both_stages_train_on_the_ends_of_the_paths(config, tmp_path):
    made = config(data={"source": "teacher"})
    paths.run(made.of_stage("semantic"), dry_run=False)
    with pytest.raises(ConfigError, match="There are no paths in .*low_noise. Run training/paths.py first"):
        build_trainer(made.of_stage("semantic"))
    paths.run(made.of_stage("detail"), dry_run=False)
    ends = load_file(tmp_path / "run" / "paths" / "low_noise" / "paths-000000.safetensors")["states"][:, -1]
    for stage in GUIDANCE:
        run = build_trainer(made.of_stage(stage))
        run.run()
        data = training_data(Noise(TINY), made.of_stage(stage))
        batch = data.batch(run.method.draws(0))
        assert all(any(torch.equal(each, end) for end in ends) for each in batch.latents)


def test_regression_on_paths_is_over_each_models_own_part_of_them(config):
    """From states of its own part to the ends of its own steps: kappa, and 0."""
    options = {"mode": "adapter", "rank": 2, "alpha": 4.0, "own": 0.5}
    stages = {
        name: {"method": "trajectory", "iterations": 1, "options": {**options, "expert": name, "guidance": scale}}
        for name, scale in GUIDANCE.items()
    }
    made = config(stages=stages, data={"source": "teacher", "text_dropout": 0.0})
    check(made)
    paths.run(made, dry_run=False)
    for stage in GUIDANCE:
        run = build_trainer(made.of_stage(stage))
        run.run()
        method, boundary = run.method, run.method.schedule.kappa_index
        levels = [index for span in method.spans() for index in span]
        assert levels == [*(range(boundary + 1, POINTS) if stage == "semantic" else range(boundary + 1))]
        assert method.trained_steps == 4 and len(method.run) == 3


def test_paths_of_other_models_or_another_boundary_are_refused(config, models, tmp_path):
    made = config(data={"source": "teacher"})
    paths.run(made, dry_run=False)
    changed = {"semantic": {"guidance": 5.0}}, {"detail": {"guidance": 5.0}}
    for stage, options in zip(GUIDANCE, changed, strict=True):
        with pytest.raises(ConfigError, match=f"made with guidance {GUIDANCE[stage]}, and this run's is 5.0"):
            build_trainer(config(stage, options, data={"source": "teacher"}))
    swapped = {"high_noise": models["low"], "low_noise": models["high"]}
    with pytest.raises(ConfigError, match="made with another backbone"):
        build_trainer(config("semantic", data={"source": "teacher"}, pair=swapped))
    with pytest.raises(ConfigError, match="grid .*cut at 0.8750, and this run's is .*cut at 0.9091"):
        build_trainer(config("detail", data={"source": "teacher"}, pair=made.pair.model_dump() | {"boundary": "image"}))
    (tmp_path / "run" / "paths" / "high_noise" / "paths-000000.safetensors").unlink()
    (tmp_path / "run" / "paths" / "low_noise" / "paths-000000.safetensors").unlink()
    with pytest.raises(ConfigError, match="1 of 1 files of paths in .*high_noise are missing"):
        paths.run(made.of_stage("detail"), dry_run=False)


WATCHED = {
    "validation": {"every": 1, "prompts": ["one", "two"], "steps": 4},
    "watch": {"every": 1, "paths": 1, "floor_paths": 1},
}


def test_held_out_paths_and_validation_clips_go_on_where_the_high_noise_model_stopped(config, loaded, tmp_path):
    made = config(**WATCHED)
    (tmp_path / "config.yaml").write_text(to_yaml(made))
    distill.main(["--config", str(tmp_path / "config.yaml")])
    assert loaded == [1, 1], "one is gone before the other is loaded"
    starts = made.expert_schedule().grid.curve.labels(made.expert_schedule().sigmas(4)[:4].tolist(), 3)
    for stage, levels in zip(GUIDANCE, (starts[:2], starts[2:]), strict=True):
        lines = (tmp_path / "run" / stage / "log.jsonl").read_text().splitlines()
        values = {name: value for line in lines for name, value in json.loads(line).items()}
        assert math.isfinite(values["jump_error/mean"]) and math.isfinite(values["validation/motion_ratio"])
        for level in levels:
            assert {f"jump_error/{level}{what}" for what in ("", "_to_end", "_own", "_teacher")} <= values.keys()
        assert (tmp_path / "run" / stage / "validation" / "000001" / "01.mp4").exists()
    (high,) = (tmp_path / "run" / "held_out").glob("*/high_noise")
    begun, ended = PathCache.read(high), PathCache.read(high.with_name("low_noise"))
    assert len(begun) == 2 and ended.plan.begins == begun.plan.name
    assert torch.equal(ended.states([0, 1], [0]), begun.states([0, 1], [-1]))


def test_a_detail_stage_alone_trains_without_what_the_semantic_one_would_have_begun(config, caplog, tmp_path):
    build_trainer(config("detail", **WATCHED)).run()
    assert "No validation clips" in caplog.text and "Train the semantic stage first" in caplog.text
    assert (tmp_path / "run" / "detail" / "detail.safetensors").is_file()


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"schedule": {"kappa_index": 30}}, {}, "=30: .* boundary of 0.875, to which point 28 is the nearest"),
        ({"schedule": {"rule": "official"}}, {}, "schedule.rule=official: no experts of pairs were published"),
        ({"pair": {"high_noise": "a", "low_noise": "./a"}}, {}, "are both a: name the two files"),
        ({"pair": {"high_noise": "a", "low_noise": "b", "boundary": 0.01}}, {}, "pair.boundary is 0.01: on this grid"),
        ({"pair": {"high_noise": "a", "low_noise": "b", "boundary": "video"}}, {}, "pair.boundary"),
        ({"pair": {"high_noise": "a"}}, {}, "pair needs low_noise"),
        ({"backbone": {"name": "wan", "weights": "c"}}, {}, "backbone.weights=c beside pair"),
        ({"backbone": {"name": "shapes"}}, {}, "pair: Shapes.* has no pairs of models"),
        ({"stages": {"one": {"method": "lcm", "iterations": 1}}}, {}, "stages.one trains one model for all .*lcm"),
        ({"validation": {"steps": 1}}, {}, "a run of a pair has a step of each model"),
        ({}, {"detail": {"semantic": "file"}}, "options.semantic=file beside pair"),
        ({}, {"detail": {"mode": "full"}}, "mode=full: the detail expert of a pair is an adapter"),
        ({}, {"semantic": {"teacher": "file"}}, "options.teacher=file beside pair"),
        (
            {"compute": {"base": "fp8", "checkpointing": "full"}},
            {"detail": {"rank": "whole"}},
            "rank=whole begins at the weights that compute.base=fp8 rounds",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_contradicts_a_pair_is_refused(config, settings, options, said):
    with pytest.raises(ConfigError, match=said):
        check(config("", options, **settings))


def test_a_pair_of_the_other_task_changes_models_at_another_level(config):
    """The noise levels of image to video are others: at those of text, kappa would be three points of the grid off."""
    image = BACKBONES["wan 2.2 i2v"].config().model_dump()
    with pytest.raises(ConfigError, match=r"boundary=text: .* videos of an image.* Set pair.boundary=image"):
        check(config("", backbone=image))
    pair = config().pair.model_dump()
    check(config("", backbone=image, pair=pair | {"boundary": "image"}))
    check(config("", backbone=image, pair=pair | {"boundary": 0.875}))
    with pytest.raises(ConfigError, match=r"boundary=image: this backbone makes videos of text"):
        check(config("", pair=pair | {"boundary": "image"}))


def test_a_missing_model_is_named_by_its_own_setting(config, models):
    with pytest.raises(ConfigError, match="no teacher at .*nowhere.* Set pair.low_noise to its file"):
        build_trainer(config("detail", pair={"high_noise": models["high"], "low_noise": "nowhere.safetensors"}))
    # The stage over the other one does not ask for it.
    build_trainer(config("semantic", pair={"high_noise": models["high"], "low_noise": "nowhere.safetensors"}))


def test_the_dry_run_tells_each_stage_over_its_own_model(config):
    told = [registry.estimated(config(stage), None, None, 350.0).text for stage in GUIDANCE]
    assert "stage semantic: semantic over the high-noise model of a pair, " in told[0]
    assert "stage detail: detail over the low-noise model of a pair, " in told[1]


def test_a_pair_is_parted_already_and_only_its_weights_are_compared(config, models, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config()))
    with pytest.raises(SystemExit, match="a pair is parted already: leave pair out and name one model in backbone"):
        analyze.main(["--config", str(file)])
    analyze.main(["--config", str(file), "--experts", models["high"], models["low"]])
    assert "Weights apart: " in capsys.readouterr().out
    assert all(json.loads((tmp_path / "run" / "dynamics" / "layers.json").read_text())["difference"].values())
