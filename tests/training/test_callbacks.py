import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import imageio_ffmpeg
import pytest
import torch
from PIL import Image

from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES
from dcm_core.shapes.render import render_clips
from training import distill
from training.callbacks.log import shortened
from training.config import ConfigError, to_yaml

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
    beside = 1 if stage == "teacher" else 2  # a student's clip stands beside its teacher's
    assert (len(frames), properties["size"]) == (16, (96 * beside, 96))
    assert len(set(frames)) > 1
    assert Image.open(folder / "strips.png").size[0] > beside * 6 * 96


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
    fine.method.sample = lambda noise, told, steps: fine.method.data.batch(fine.method.draws(5)).latents[: len(noise)]
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
    strips = events.Images("validation/strips")
    assert [strip.step for strip in strips] == [2, 4] and strips[0].width > 6 * 96


def test_the_time_left_is_that_of_iterations_and_not_of_what_is_measured_before_them(trainer):
    run = trainer("semantic", iterations=3)
    log = run.callbacks[0]
    log.start(run)
    for clock in ("start_t", "last_print_t"):  # as if a hundred minutes had gone by with held-out paths
        setattr(log.bar, clock, getattr(log.bar, clock) - 6000)
    log.left_off -= 6000
    log.before_step(run)
    log.after_step(run, 0, {})
    assert str(log.bar).startswith("semantic 1/3 00:0")


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
    for name, p in exported.transformer.named_parameters():
        torch.testing.assert_close(p, average[name])
    assert any(not torch.equal(p, average[name]) for name, p in run.method.trainable.items())


def test_a_resumed_run_keeps_the_curve_at_its_checkpoint(trainer):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer("teacher", iterations=2, log_every=1).run()
    run = trainer("teacher", iterations=3, log_every=1)
    run.run()
    events = event_accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("flow")] == [1, 2, 3]


def test_losses_fit_80_columns(trainer, capsys):
    run = trainer("detail", iterations=3, log_every=1)
    run.run()
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    last = lines[-1]
    assert [name for name in ("cons ", "adve ", "matc ", "disc ") if name not in last] == []
    worst = dict.fromkeys(("consistency", "adversarial", "matching", "discriminator", "grad_norm"), 1.23e-5)
    assert len(f"detail 4500/4500 01:30:00, {shortened(worst)} ") <= 80


def test_validation_figures_are_explained_once_and_told_each_time(trainer, capsys):
    trainer("semantic", validation={**VALIDATION, "every": 1}).run()
    output = capsys.readouterr().out
    assert output.count("Validation: contrast is how much") == 1
    assert "iteration 1: contrast" in output and "iteration 2: contrast" in output


def test_a_run_on_shapes_ends_with_what_its_clips_show(trainer, capsys):
    run = trainer("teacher", iterations=1)
    asked = []

    by_caption = {each.caption(): each for each in ALL_ATTRIBUTES}

    def sample(noise, text, steps):
        clips = [by_caption[each] for each in asked]
        clips[0] = replace(clips[0], colour="red" if clips[0].colour != "red" else "blue")
        return autoencoder.encode(render_clips(clips, torch.Generator().manual_seed(0)))

    conditions = run.method.data.conditions
    run.method.sample = sample
    run.method.data.conditions = lambda captions: asked.extend(captions) or conditions(captions)
    run.run()
    assert (
        "Of 8 clips, so many show what was asked for: colour 7, texture 8, shape 8, direction 8, speed 8."
        in capsys.readouterr().out
    )


def test_clips_that_cannot_be_sampled_do_not_lose_the_file(trainer, capsys):
    run = trainer("teacher", iterations=1)

    def diverged(noise, text, steps):
        raise FloatingPointError("step 1 of 2: NaN")

    run.method.sample = diverged
    run.run()
    assert (run.folder / "teacher.safetensors").is_file()
    assert "No clip could be sampled: step 1 of 2: NaN" in capsys.readouterr().out


def test_the_teachers_clips_are_beside_and_the_measure(trainer):
    run = trainer("semantic", iterations=2, validation=VALIDATION)
    levels = [*run.method.schedule.grid.sigmas.flip(0).tolist(), 0.0]

    def as_the_teacher(noise, conditions, steps):
        return run.method.followed(run.method.guided_teacher(conditions), noise, levels)

    run.method.sample = as_the_teacher
    run.run()
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    (ratios,) = [line for line in lines if "validation/motion_ratio" in line]
    assert [ratios[f"validation/{name}_ratio"] for name in ("motion", "high_frequency")] == pytest.approx([1, 1])


@pytest.mark.parametrize("stage", ["teacher", "semantic", "lcm"])
def test_weights_that_overflow_the_exported_numbers_are_refused_in_a_sentence(trainer, tmp_path, monkeypatch, stage):
    """And can be exported again in others: nothing is trained for that."""
    run = trainer(stage, iterations=1, export_dtype="float16")
    with torch.no_grad():
        next(iter(run.method.trainable.values())).view(-1)[0] = 1e6
    file, config = run.folder / f"{stage}.safetensors", tmp_path / "config.yaml"
    config.write_text(to_yaml(run.config))
    monkeypatch.setattr("training.trainer.build_trainer", lambda config: run)
    with pytest.raises(SystemExit, match="error: NaN or Inf in .* a cast overflowed. .* export in float32 or bfloat16"):
        distill.main(["--config", str(config), f"stage={stage}"])
    assert not file.exists()
    trainer(stage, iterations=1, export_dtype="bfloat16").run()
    assert file.exists()


def test_iterations_are_profiled_on_request(trainer):
    run = trainer("teacher", iterations=2, profile=1)
    run.run()
    folder = run.folder / "profile"
    assert "aten::" in (folder / "operators.txt").read_text() and json.loads((folder / "trace.json").read_text())


def test_wandb_has_what_is_reported_and_is_not_required(trainer, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    trainer("teacher", folder=tmp_path / "without", wandb="project").run()
    assert "the package is not installed: pip install wandb" in caplog.text
    sent, begun = [], []
    run = SimpleNamespace(log=sent.append, define_metric=lambda *_, **__: None, finish=lambda: sent.append("finished"))
    module = SimpleNamespace(init=lambda **told: begun.append(told) or run, Image=lambda picture: picture)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for iterations in (1, 2):
        trainer("teacher", folder=tmp_path, iterations=iterations, log_every=1, wandb="project").run()
    assert [each["iteration"] for each in sent if each != "finished"] == [1, 2] and sent[-1] == "finished"
    assert begun[0]["project"] == "project" and begun[0]["id"] == begun[1]["id"] and begun[0]["resume"] == "allow"
