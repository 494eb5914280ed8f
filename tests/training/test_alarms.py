"""Every alarm is provoked, says what to do, does what it is told, and is silent where nothing is wrong."""

import json

import pytest
import torch

from dcm_core.shapes import autoencoder
from training.callbacks.alarms import Alarms
from training.callbacks.jump_error import MEAN, UNTRAINED
from training.callbacks.validation import MOTION

PROMPTS = ["a red striped circle moving left fast", "a blue plain square moving up slowly"]


def scripted(trainer, losses, stage="semantic", **settings):
    """A trainer whose steps only give these metrics, one after the other."""
    run = trainer(stage, iterations=len(losses), **settings)
    run.method.step = lambda iteration: dict(losses[iteration])
    return run


def told(caplog, words):
    return [each for each in caplog.records if each.levelname == "WARNING" and words in each.getMessage()]


@pytest.mark.parametrize(("level", "remedy"), [(0.0, "Lower options.disc"), (2.0, "Raise options.disc")])
def test_a_pinned_discriminator(trainer, caplog, level, remedy):
    pinned = {"consistency": 1.0, "discriminator": level + 0.01 if level == 0 else level - 0.01}
    fine = {"consistency": 1.0, "discriminator": 1.3}
    run = scripted(trainer, [pinned] * 9 + [fine] + [pinned] * 4, alarms={"window": 5})
    run.run()
    (record,) = told(caplog, "the discriminator's loss has been")
    assert "Iteration 5" in record.getMessage() and remedy in record.getMessage()
    caplog.clear()
    scripted(trainer, [pinned, pinned, fine] * 5, alarms={"window": 5}, folder=run.folder / "fine").run()
    assert not told(caplog, "discriminator")


def test_a_loss_spike(trainer, caplog):
    usual = [{"consistency": 1.0 + 0.1 * (n % 5), "grad_norm": 99.0} for n in range(25)]
    run = scripted(trainer, [*usual, {"consistency": 30.0}, *usual])
    run.run()
    (record,) = told(caplog, "the loss is 30, and its median was 1.2 before")
    assert "Iteration 26" in record.getMessage() and "lower the learning rate" in record.getMessage()
    caplog.clear()
    early = [{"consistency": 100.0}, *usual]  # a first loss is no spike, and what falls is none
    scripted(trainer, early, folder=run.folder / "fine").run()
    scripted(trainer, [*usual, {"consistency": 30.0}], alarms={"spike": "off"}, folder=run.folder / "off").run()
    assert not told(caplog, "the loss is")


def test_a_jump_error_above_the_untrained_students(trainer, caplog):
    run = trainer("semantic")
    for callback in run.callbacks:
        if isinstance(callback, Alarms):
            callback.start(run)
            for iteration, error in enumerate([0.7, 0.7, 0.4, 0.7, 0.4, 0.7, 0.8, 0.9]):
                callback.report(run, iteration, {MEAN: error, UNTRAINED: 0.6})
    (record,) = told(caplog, "the jump error is 0.800, and that of the untrained student was 0.600")
    assert "Lower the learning rate" in record.getMessage()


def test_dead_motion(trainer, caplog):
    validation = {"every": 1, "prompts": PROMPTS, "steps": 2}
    run = trainer("semantic", iterations=2, validation=validation)
    sample = run.method.sample

    def still(noise, conditions, steps):
        clips = autoencoder.decode(sample(noise, conditions, steps))
        return autoencoder.encode(clips[:, :, :1].expand_as(clips))

    run.method.sample = still
    run.run()
    (record,) = told(caplog, "of the motion of the teacher's from the same noise")
    assert "more iterations" in record.getMessage()
    assert logged(run, MOTION)[0] < 0.3
    caplog.clear()
    fine = trainer("semantic", iterations=1, validation=validation, folder=run.folder / "fine")
    fine.run()
    assert logged(fine, MOTION)[0] > 0.5 and not told(caplog, "of the motion of the teacher's")


def test_a_stopping_alarm_saves_and_ends_the_stage(trainer, caplog):
    usual = [{"consistency": 1.0}] * 25
    run = scripted(trainer, [*usual, {"consistency": 30.0}, *usual], alarms={"spike": "stop"})
    run.run()
    assert run.iteration == 26 == run.checkpoints.newest()[1]["iteration"] and "alarms.spike is stop" in caplog.text
    assert (run.folder / "semantic.safetensors").is_file()


def poisoned(run, iteration, times=1):
    """The gradient of an iteration is NaN, the first ``times`` times."""
    turns, left = run.method.turns, [times]

    def with_nan(batch, draws):
        for name, losses in turns(batch, draws):
            if draws.iteration == iteration and left[0]:
                left[0] -= 1
                losses = {key: value * float("nan") for key, value in losses.items()}
            yield name, losses

    run.method.turns = with_nan
    return run


def test_a_loss_that_is_not_finite_stops(trainer):
    run = poisoned(trainer("teacher", iterations=4, checkpoint_every=1), 2)
    with pytest.raises(FloatingPointError, match="gradient at iteration 2 is not finite"):
        run.run()
    assert run.checkpoints.newest()[1]["iteration"] == 2


def test_or_steps_back_to_the_last_checkpoint_with_half_the_learning_rate(trainer, caplog, tmp_path):
    settings = {"iterations": 5, "checkpoint_every": 2, "log_every": 1, "alarms": {"non_finite": "step_back"}}
    run = poisoned(trainer("teacher", **settings), 3)
    run.run()
    assert "Stepped back to iteration 2, and going on with 0.5 of the learning rate" in caplog.text
    learner = run.method.learners["student"]
    assert learner.config.lr == 0.5 * run.stage.optimizer.lr == learner.optimizers[0].param_groups[0]["lr"]
    assert all(torch.isfinite(p).all() for p in run.method.trainable.values())
    lines = [json.loads(line)["iteration"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5]
    other = trainer("teacher", **settings, compute={"read_ahead": False}, folder=tmp_path / "not ahead")
    poisoned(other, 3).run()
    for name, tensor in other.method.trainable.items():
        assert torch.equal(tensor, run.method.trainable[name]), "what was read ahead is not what was asked for"
    later = trainer("teacher", **{**settings, "iterations": 6})
    later.run()
    assert later.method.learners["student"].config.lr == learner.config.lr, "a resumed run is as slow"


def test_it_steps_back_three_times_and_not_without_a_checkpoint(trainer, tmp_path):
    alarms = {"non_finite": "step_back"}
    with pytest.raises(FloatingPointError):
        poisoned(trainer("teacher", iterations=2, alarms=alarms), 0).run()
    run = poisoned(
        trainer("teacher", iterations=4, checkpoint_every=2, alarms=alarms, folder=tmp_path / "second"), 3, times=4
    )
    with pytest.raises(FloatingPointError):
        run.run()
    assert run.method.learners["student"].config.lr == pytest.approx(run.stage.optimizer.lr / 8)


def test_a_training_that_goes_well_raises_none(trainer, caplog):
    validation = {"every": 2, "prompts": PROMPTS, "steps": 2}
    options = {"adversarial": 0.0, "matching": 0.0}
    trainer("detail", options, iterations=4, validation=validation, alarms={"window": 3}).run()
    assert not [record for record in caplog.records if record.levelname == "WARNING"], caplog.text


def logged(run, name):
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]
