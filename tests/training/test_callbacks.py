import json

import imageio_ffmpeg
import pytest
import torch
from PIL import Image

from training.config import ConfigError

PROMPTS = ["a red striped circle moving left fast", "a blue plain square moving up slowly"]
VALIDATION = {"every": 2, "prompts": PROMPTS, "steps": 2}


@pytest.mark.parametrize("stage", ["teacher", "semantic", "detail", "lcm", "pcm"])
def test_validation_clips_can_be_looked_at(trainer, stage):
    run = trainer(stage, validation=VALIDATION)
    run.run()
    folder = run.folder / "validation" / "000002"
    assert sorted(path.name for path in folder.iterdir()) == ["00.mp4", "01.mp4", "strips.png"]
    video = imageio_ffmpeg.read_frames(str(folder / "00.mp4"))
    properties = next(video)
    frames = list(video)
    assert (len(frames), properties["size"]) == (16, (96, 96))
    assert len(set(frames)) > 1
    assert Image.open(folder / "strips.png").size[0] > 6 * 96


def test_validation_draws_nothing_from_the_training(trainer, tmp_path):
    """Looking at the run does not change it."""
    watched = trainer("semantic", folder=tmp_path / "watched", validation=VALIDATION, ema_decay=0.9)
    unwatched = trainer("semantic", folder=tmp_path / "unwatched", ema_decay=0.9)
    watched.run()
    unwatched.run()
    for name, p in watched.method.trainable.items():
        assert torch.equal(p, unwatched.method.trainable[name]), name


def test_collapse_is_an_alarm(trainer, caplog):
    run = trainer("teacher", validation=VALIDATION)
    run.method.sample = lambda noise, text, steps: 0.001 * noise
    run.run()
    assert "training has collapsed" in caplog.text
    caplog.clear()
    fine = trainer("teacher", validation=VALIDATION, folder=run.folder.parent / "fine")
    fine.method.sample = lambda noise, text, steps: fine.method.data.batch(5).latents[: len(noise)]
    fine.method.data.verdict = lambda sample: ""  # there are fewer clips in a batch than it asks for
    fine.run()
    assert "collapsed" not in caplog.text


def test_an_unknown_word_in_a_validation_prompt_is_noticed_before_training(trainer):
    with pytest.raises(ConfigError, match="validation.prompts: .*purple"):
        trainer("teacher", validation={"every": 2, "prompts": ["a purple circle"]})


def test_reported_values_reach_the_log_and_tensorboard(trainer):
    run = trainer("semantic", iterations=4, log_every=2, validation=VALIDATION)
    run.run()
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "consistency" in line] == [2, 4]
    assert [line["iteration"] for line in lines if "validation/motion" in line] == [2, 4]
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("consistency")] == [2, 4]
    assert events.Scalars("consistency")[0].value == pytest.approx(lines[0]["consistency"])


def test_without_tensorboard_the_run_goes_on(trainer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    run = trainer("teacher")
    run.run()
    assert run.iteration == 2 and not (run.folder / "tensorboard").exists()


def test_averaged_weights_are_exported_and_the_training_goes_on_with_its_own(trainer):
    run = trainer("teacher", iterations=3, ema_decay=0.5)
    run.run()
    average = run.method.averages["student"].values
    exported = run.method.backbone.load(run.folder / "teacher.safetensors")
    for name, p in exported.named_parameters():
        torch.testing.assert_close(p, average[name])
    assert any(not torch.equal(p, average[name]) for name, p in run.method.trainable.items())
