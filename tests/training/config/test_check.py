"""What is wrong with any stage is said before the first one is trained."""

import pytest
import yaml

from training.config import Config, ConfigError, build
from training.distill import main
from training.registry import check

TEACHER = {"method": "teacher", "iterations": 1}
DETAIL = {"method": "detail", "iterations": 1}
NO_SEMANTIC = "stages.detail has no semantic expert to build on: put a stage `semantic` before it"


def config(folder, stages: dict, **settings) -> Config:
    return build(Config, {"output": str(folder), "backbone": {"name": "shapes"}, "stages": stages, **settings})


def test_the_options_of_all_stages_are_read_at_once(tmp_path):
    stages = {
        "teacher": TEACHER | {"options": {"shfit": 1, "guidance": -1}},
        "second": {"method": "student", "iterations": 1},
        "semantic": {"method": "semantic", "iterations": 1, "options": {"tc_lag": 0}},
    }
    with pytest.raises(ConfigError) as wrong:
        check(config(tmp_path, stages, data={"options": {"onyl": {}}}))
    assert sorted(str(wrong.value).splitlines()) == [
        "Unknown key 'data.options.onyl'. Did you mean 'only'?",
        "Unknown key 'stages.teacher.options.shfit'. Did you mean 'shift'?",
        "stages.second.method='student' is unknown; use detail, lcm, pcm, semantic, teacher or trajectory.",
        "stages.semantic.options.tc_lag=0 must be at least 1.",
        "stages.teacher.options.guidance=-1.0 must be at least 0.",
    ]


def test_a_detail_stage_needs_a_semantic_expert(tmp_path):
    with pytest.raises(ConfigError, match=NO_SEMANTIC):
        check(config(tmp_path, {"teacher": TEACHER, "detail": DETAIL}))
    check(config(tmp_path, {"semantic": {"method": "semantic", "iterations": 1}, "detail": DETAIL}))
    check(config(tmp_path, {"detail": DETAIL | {"options": {"semantic": "elsewhere.safetensors"}}}))
    (tmp_path / "semantic").mkdir()
    (tmp_path / "semantic" / "semantic.safetensors").touch()
    check(config(tmp_path, {"teacher": TEACHER, "detail": DETAIL}))


@pytest.mark.parametrize(("stage", "late"), [("detail", "semantic"), ("semantic", "teacher")])
def test_a_stage_above_the_one_that_it_builds_on_is_refused(tmp_path, stage, late):
    first, last = ({"method": name, "iterations": 1} for name in (stage, late))
    with pytest.raises(ConfigError, match=f"stages.{stage} builds on stages.{late} .* write {late} above {stage}"):
        check(config(tmp_path, {stage: first, late: last}))
    check(config(tmp_path, {late: last, stage: first}))
    check(config(tmp_path, {stage: first | {"options": {late: "elsewhere.safetensors"}}, late: last}))


def test_the_command_says_so_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("training.trainer.Trainer.run", lambda *_: pytest.fail("it trained before it noticed"))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(tmp_path, {"teacher": TEACHER, "detail": DETAIL}).model_dump(mode="json")))
    with pytest.raises(SystemExit, match=NO_SEMANTIC):
        main(["--config", str(file)])


def test_a_semantic_expert_of_another_kappa_is_refused(trainer):
    moved = {"schedule": {"shift": 3.0, "points": 50, "kappa_index": 30}}
    with pytest.raises(ConfigError) as wrong:
        trainer("detail", **moved)
    message = str(wrong.value)
    assert message.startswith("stages.detail.options.semantic: ")
    assert "ends at kappa_index 29 of 50 points at shift 3, and this stage begins at kappa_index 30 of 50" in message
