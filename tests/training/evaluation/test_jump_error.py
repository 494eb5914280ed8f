"""The jump error: 0 where it has to be, 1 where nothing moves, and in the curves from before the first iteration on."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pytest
import torch

from dcm_core.expert.file import metadata_of
from dcm_core.families.presets import FAMILIES
from dcm_core.process import FLOW, process_of
from dcm_core.sampling import euler
from training.config import ConfigError
from training.data.paths import PathCache
from training.evaluation.jump_error import HeldOut, finer, relative
from training.evaluation.recipe import held_out

V_PREDICTION = process_of(FAMILIES["cogvideox"].schedule.grid)
WATCH = {"every": 2, "paths": 3, "floor_paths": 1}
GRID = {"schedule": {"shift": 3.0, "points": 8, "kappa_index": 3}}  # short paths are enough here


def watched(trainer, stage="semantic", steps=4, **settings):
    """(measured held-out paths, method) of a tiny run."""
    values = {**GRID, "watch": WATCH, "validation": {"steps": steps}, **settings}
    run = trainer(stage, settings.pop("options", None), **{k: v for k, v in values.items() if k != "options"})
    return HeldOut(run.method, held_out(run.method, run.config), steps), run


def logged(run):
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "jump_error/mean" in line]


def test_the_teachers_own_step_of_the_grid_has_no_error(trainer):
    """With as many steps as the grid has points, each run step is one of the teacher's."""
    found, run = watched(trainer, "pcm", steps=8, options={"phases": 8})
    assert len(found.segments) == 8
    assert max(found.jumps(run.method.guided_teacher).next) < 1e-5
    assert max(found.jumps(run.method.student_alone).next) > 1e-3, "without guidance it is not the teacher"
    assert max(found.own(run.method.guided_teacher)) < 1e-5


def test_an_exact_jump_has_no_error_and_none_at_all_has_1(trainer):
    found, _ = watched(trainer)

    def exact(conditions):
        def velocity(x, sigma):
            level = float(sigma[0])
            segment = next(each for each in found.segments if each.start == pytest.approx(level))
            start, following = found.cache.states(range(len(x)), found.cache.positions(segment[:2])).transpose(0, 1)
            return (start - following) / (segment.start - segment.next)

        return velocity

    assert max(found.jumps(exact).next) < 1e-5 and max(found.own(exact)) < 1e-5
    still = found.jumps(lambda conditions: lambda x, sigma: torch.zeros_like(x))
    assert still.next == still.end == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("prediction", [FLOW, V_PREDICTION])
def test_a_jump_to_a_blurred_video_has_less_detail_than_the_path(trainer, prediction):
    found, _ = watched(trainer, watch={**WATCH, "paths": 1})
    found.process = prediction

    def aiming_at(change):
        def model_of(conditions):
            def velocity(x, sigma):
                segment = next(each for each in found.segments if each.start == pytest.approx(float(sigma[0])))
                end = found.cache.states([0], found.cache.positions([segment.end]))[0]
                to_path = prediction.velocity(x, end, segment.start, segment.end)
                clean = change(prediction.jump(x, to_path, segment.start, 0.0))
                return prediction.velocity(x, clean, segment.start, 0.0)

            return velocity

        return model_of

    assert found.jumps(aiming_at(lambda clean: clean)).detail == pytest.approx([1.0, 1.0], rel=1e-3)
    blurred = found.jumps(aiming_at(lambda clean: torch.nn.functional.avg_pool3d(clean, (1, 3, 3), 1, (0, 1, 1))))
    assert max(blurred.detail) < 0.5
    doubled = found.jumps(aiming_at(lambda clean: 2 * clean))
    assert doubled.detail == pytest.approx([4.0, 4.0], rel=1e-3), "an energy"


def test_segments_are_those_of_the_trained_expert(trainer):
    kappa = 0.75  # of index 3 of 8 at shift 3
    semantic, run = watched(trainer)
    sigmas = run.method.sigmas(4).tolist()
    expected = [(sigmas[0], sigmas[1], kappa), (sigmas[1], sigmas[2], kappa)]
    assert [pytest.approx(each) for each in expected] == semantic.segments
    assert len(watched(trainer, "pcm", steps=3)[0].segments) == 3, "steps that are not the phases"
    lcm, _ = watched(trainer, "lcm")
    assert [each[1:] for each in lcm.segments] == [pytest.approx((sigma, 0.0)) for sigma in sigmas[1:]]


def test_the_detail_expert_is_measured_below_kappa_and_its_own_run_begins_with_the_semantic_one(trained, trainer):
    schedule = {"schedule": {"shift": 3.0, "points": 50, "kappa_index": 29}}
    found, run = watched(trainer, "detail", steps=2, watch={**WATCH, "paths": 1}, **schedule)
    (segment,) = found.segments
    assert segment.start == pytest.approx(run.method.schedule.kappa_sigma) and segment.next == segment.end == 0
    with torch.no_grad():
        noise, end = found.cache.states([0], [0, -1])[0].split(1)
        conditions = run.method.data.conditions(found.cache.plan.captions([0]))
        kappa = found.cache.states([0], found.cache.positions([segment.start]))[0]
        landed = run.method.sample(noise, conditions, 2)
    assert found.own(run.method.few_step) == pytest.approx(relative(landed, end, kappa).tolist())


def test_the_floor_is_the_teacher_on_a_finer_grid(trainer):
    found, run = watched(trainer, watch={**WATCH, "paths": 1})
    method, segment = run.method, found.segments[0]
    x, following = found.cache.states([0], found.cache.positions(segment[:2])).transpose(0, 1)
    model = method.guided_teacher(method.data.conditions(found.cache.plan.captions([0])))
    grid = replace(method.schedule.grid, points=32)
    levels = [each for each in grid.sigmas.flip(0).tolist() if each > segment.next - 1e-6]
    arrived = euler(model, x, levels)
    floor = found.floor(method.guided_teacher, 1)
    assert floor.next[0] == pytest.approx(float(relative(arrived, following, x)), rel=1e-3) and floor.next[0] > 1e-4
    assert finer(grid.curve, [1.0, 0.0], 2) == pytest.approx([1.0, 0.75, 0.0])


def test_the_curve_begins_before_the_first_iteration_beside_its_baselines(trainer, capsys):
    run = trainer("semantic", iterations=3, watch=WATCH, validation={"steps": 2}, **GRID)
    run.run()
    lines = logged(run)
    assert [line["iteration"] for line in lines] == [0, 2, 3]
    first, last = lines[0], lines[-1]
    assert first["jump_error/mean"] == first["jump_error/mean_untrained"] != last["jump_error/mean"]
    assert first["jump_error/1.000"] == pytest.approx(first["jump_error/1.000_own"]), "both start from the same noise"
    for name in ("untrained", "teacher", "floor"):
        assert first[f"jump_error/1.000_{name}"] == last[f"jump_error/1.000_{name}"] > 0
    assert first["jump_error/mean_floor"] < first["jump_error/mean_teacher"]
    assert first["detail/1.000"] == first["detail/1.000_untrained"] != last["detail/1.000"]
    told = [line for line in capsys.readouterr().out.splitlines() if ": jump error" in line]
    assert len(told) == 3 and told[0].startswith("iteration 0: jump error") and max(map(len, told)) <= 80
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(run.folder / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("jump_error/mean")] == [0, 2, 3]


def test_watching_changes_nothing_and_a_resumed_run_goes_on_with_its_curve(trainer, tmp_path):
    plain = trainer("semantic", iterations=4, folder=tmp_path / "plain", **GRID)
    plain.run()
    settings = {"iterations": 4, "checkpoint_every": 2, "watch": WATCH, "validation": {"steps": 2}, **GRID}
    whole = trainer("semantic", folder=tmp_path / "whole", **settings)
    whole.run()
    first = trainer("semantic", folder=tmp_path / "halves", **settings)
    step = first.method.step
    first.method.step = lambda iteration: step(iteration) if iteration < 3 else (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = trainer("semantic", folder=tmp_path / "halves", **settings)
    second.run()
    assert logged(second) == logged(whole) and len(logged(whole)) == 3
    for name, p in plain.method.trainable.items():
        assert torch.equal(p, second.method.trainable[name]) and torch.equal(p, whole.method.trainable[name])


def test_the_bar_makes_way_for_what_is_said_of_held_out_paths(trainer, tmp_path):
    settings = {"watch": {**WATCH, "paths": 1}, "validation": {"steps": 2}, "iterations": 1, **GRID}
    terminal = io.StringIO()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        trainer("semantic", folder=tmp_path, **settings).run()
    assert "\rSolving 1 held-out path of the teacher, " in terminal.getvalue()
    assert "held-out paths: 100%" in terminal.getvalue()


def test_held_out_paths_are_made_once_and_refused_where_they_do_not_fit(trainer, tmp_path, capsys):
    settings = {"watch": WATCH, "validation": {"steps": 2}, "iterations": 1, **GRID}
    trainer("semantic", folder=tmp_path, **settings).run()
    assert "Solving 3 held-out paths of the teacher, 16 calls each" in capsys.readouterr().out
    (folder,) = (tmp_path / "held_out").iterdir()
    trainer("lcm", folder=tmp_path, **settings).run()
    assert "Solving" not in capsys.readouterr().out
    shared = {**settings, "watch": {**WATCH, "folder": str(folder)}}
    trainer("pcm", {"phases": 1}, folder=tmp_path, **{**shared, "validation": {"steps": 1}}).run()
    with pytest.raises(ConfigError, match="guidance 6.0, and this run's is 2.0"):
        trainer("semantic", {"guidance": 2.0}, folder=tmp_path / "other", **shared).run()
    with pytest.raises(ConfigError, match="have no states at the noise levels"):
        trainer("lcm", folder=tmp_path / "other", **{**shared, "validation": {"steps": 7}}).run()
    assert PathCache.read(folder).plan.stream == "held-out path"


def test_the_best_weights_are_exported_beside_the_last_and_training_stops_by_patience(trainer, caplog, capsys):
    from training.callbacks.jump_error import JumpError

    settings = {"iterations": 9, "watch": {**WATCH, "every": 1, "patience": 2}, "validation": {"steps": 2}, **GRID}
    run = trainer("semantic", **settings)
    watch = next(each for each in run.callbacks if isinstance(each, JumpError))
    errors = iter([0.9, 0.5, 0.4, 0.6, 0.4])
    watch._measure = lambda run, iteration: next(errors)
    run.run()
    assert run.iteration == 4 and run.checkpoints.newest()[1]["iteration"] == 4
    assert "stops early: the jump error has not fallen below 0.400 of iteration 2 in 2 measurements" in caplog.text
    best, last = run.folder / "semantic.best.safetensors", run.folder / "semantic.safetensors"
    assert best.read_bytes() != last.read_bytes()
    assert "Best jump error 0.400 at iteration 2" in capsys.readouterr().out
    again = trainer("semantic", **settings)
    again.run()
    assert again.iteration == 4, "run again, it stops where it stood"
    said = [metadata_of(path).trained_with for path in (best, last)]
    assert [f", {done} iterations of 4," in each for done, each in zip((2, 4), said, strict=True)] == [True, True], (
        "of 9 that were asked for"
    )


def test_after_a_step_back_the_best_is_the_one_whose_weights_are_in_the_file():
    from training.callbacks.jump_error import JumpError

    watch = JumpError()
    watch.load({"best": 0.5, "best_iteration": 3})
    before = watch.state()
    watch.best, watch.best_iteration = 0.4, 5  # and exported, behind the checkpoint
    watch.load(before)
    assert (watch.best, watch.best_iteration) == (0.4, 5)


def test_what_was_measured_on_other_paths_is_no_best_to_compare_with(trainer, caplog):
    from training.callbacks.jump_error import JumpError

    def watch_of(run):
        return next(each for each in run.callbacks if isinstance(each, JumpError))

    settings = {"watch": {**WATCH, "every": 1}, "checkpoint_every": 1, **GRID}
    first = trainer("semantic", iterations=1, validation={"steps": 4}, **settings)
    first.run()
    watch_of(first).best = 0.0
    first.save()
    same = trainer("semantic", iterations=2, validation={"steps": 4}, **settings)
    same.run()
    assert watch_of(same).best == 0 and watch_of(same).best_iteration == 1 and "measured on" not in caplog.text
    other = trainer("semantic", iterations=3, validation={"steps": 2}, **settings)
    other.run()
    assert watch_of(other).best > 0 and watch_of(other).best_iteration == 3
    assert "3 paths in 4 steps, and is on" in caplog.text
    assert "jump_error/mean_untrained" not in logged(other)[-1]
