"""The model card beside an exported file."""

from pathlib import Path

import yaml


def test_a_finished_stage_has_a_card_with_what_it_was_made_of(trainer, tmp_path):
    told = {"licence": "apache-2.0", "base_licence": "mit", "data": "made for this test"}
    run = trainer("semantic", iterations=1, card=told)
    run.run()
    text = (run.folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0" and "dcm" in front["tags"]
    for row in ("| licence of the base | mit |", "| data | made for this test |", "| seed | 0 |"):
        assert row in text
    assert "semantic, 1 iterations of 4" in text and "kappa index 29" in text
    teacher = Path(run.method.options.teacher)
    assert teacher.is_absolute() and str(teacher.parent) not in text and str(tmp_path) not in text
    assert f" teacher: {teacher.name}\n" in text
    assert f"| base | shapes, {teacher.name} |" in text, "whatever backbone.weights says"


def test_what_nobody_stated_is_said_to_be_missing(trainer):
    run = trainer("teacher", iterations=1)
    run.run()
    text = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "| licence of the base | not stated: it binds these weights too |" in text and "license:" not in text


def test_the_time_of_all_parts_is_added_up(trainer):
    first = trainer("teacher", iterations=1)
    first.run()
    card = next(each for each in trainer("teacher", iterations=2).callbacks if type(each).__name__ == "Card")
    card.load({"seconds": 7200.0})
    assert card.state()["seconds"] >= 7200
    card.load({"seconds": 3600.0})  # of a checkpoint that was stepped back to
    assert card.state()["seconds"] >= 7200
