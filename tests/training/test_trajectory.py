"""Regression on the teacher's paths: what is taught at which level, from whose states, and what is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from dcm_core.expert.file import load_expert, save_expert
from training.config import ConfigError
from training.data.paths import PathCache, fill
from training.evaluation.jump_error import segments
from training.evaluation.recipe import training_plan
from training.trainer import build_trainer

GRID = {"shift": 3.0, "points": 8, "kappa_index": 3}  # short paths are enough here
PATHS = {"count": 4, "batch_size": 4}
FROM_PATHS = {"data": {"source": "teacher", "text_dropout": 0.0, "batch_size": 4}}
EXPERTS = ("semantic", "detail", "single")


@pytest.fixture(scope="module")
def semantic(trained, tiny, tmp_path_factory):
    """The file of a semantic expert on that grid."""
    folder = tmp_path_factory.mktemp("semantic")
    options = {"teacher": str(trained / "teacher" / "teacher.safetensors")}
    build_trainer(tiny(folder, "semantic", options, iterations=1, schedule=GRID)).run()
    return folder / "semantic" / "semantic.safetensors"


@pytest.fixture(scope="module")
def paths(trained, tiny, tmp_path_factory):
    """A folder with four paths of that teacher."""
    folder = tmp_path_factory.mktemp("paths")
    options = {"teacher": str(trained / "teacher" / "teacher.safetensors")}
    run = build_trainer(tiny(folder, "semantic", options, schedule=GRID, paths=PATHS))
    cache = PathCache.begin(folder, training_plan(run.method, run.config))
    list(fill(cache, run.method.data, run.method.guided_teacher, run.method.process, run.method.world))
    return folder


@pytest.fixture
def made(trainer, semantic, paths):
    """Makes a trainer of this method: ``made(expert, {option: value}, **settings)``; on paths unless data says else."""

    def make(expert, options=None, **settings):
        known = {"semantic": str(semantic), "rank": 4, "alpha": 8.0, "discriminator": {"lr": 1e-3, "width": 32}}
        values = {"schedule": GRID, "paths": {**PATHS, "folder": str(paths)}, **FROM_PATHS, **settings}
        return trainer("trajectory", {"expert": expert, **known, **(options or {})}, **values)

    return make


def windows(method, iteration=0):
    draws = method.draws(iteration)
    step, level = method._drawn(draws)
    return step, method._windows(method.data.batch(draws), draws, step, level)


@pytest.mark.parametrize("expert", EXPERTS)
@torch.no_grad()
def test_what_is_taught_lands_where_the_teachers_path_is(made, expert):
    method = made(expert).method
    conditions = method.data.conditions(method.paths.cache.plan.captions(method.paths.numbers(method.draws(0))))
    step, (x, landed, start, end) = windows(method)
    assert set(zip(start.tolist(), end.tolist(), strict=True)) != {(method.run[0], method.run[1])}
    for row in range(4):
        assert end[row] == method.run[int(step[row]) + 1] < start[row] <= method.run[int(step[row])]
        nodes = [node for node in method.nodes if end[row] <= node <= start[row]]
        teacher = method.guided_teacher(conditions.rows(slice(row, row + 1)))
        torch.testing.assert_close(method.followed(teacher, x[row : row + 1], nodes)[0], landed[row])
    velocity = method.process.velocity(x, landed, start, end)
    torch.testing.assert_close(method.process.jump(x, velocity, start, end), landed)


def test_each_expert_is_taught_the_segments_in_which_it_acts(made):
    spans = {expert: made(expert).method.spans() for expert in EXPERTS}
    assert spans["detail"] + spans["semantic"] == spans["single"]
    assert [index for span in spans["single"] for index in span] == list(range(8))
    method = made("semantic").method
    pairs = list(zip(method.run[:2], method.run[1:3], strict=True))
    assert segments(method, method.run) == [(start, end, end) for start, end in pairs]
    one = made("semantic", {"steps": 1}, validation={"steps": 1}).method
    assert one.run == [1.0, 0.0] and one.spans() == [range(8)]


def test_the_share_of_starts(made):
    def begins(share):
        method = made("semantic", {"starts": share}).method
        seen = [windows(method, iteration) for iteration in range(5)]
        return [float(a) == method.run[int(s)] for step, w in seen for s, a in zip(step, w.start, strict=True)]

    assert all(begins(1.0)) and not any(begins(0.0))


@torch.no_grad()
def test_own_states_are_where_the_student_arrives_and_land_on_the_path_of_their_noise(made):
    method = made("single", {"own": 1.0, "starts": 1.0}).method
    for p in method.trainable.values():
        p.add_(0.01)
    conditions = method.data.conditions(method.paths.cache.plan.captions(method.paths.numbers(method.draws(0))))
    step, own = windows(method)
    _, plain = windows(made("single", {"starts": 1.0}).method)
    noise = method.paths.cache.states(method.paths.numbers(method.draws(0)), [0])[:, 0]
    assert len(set(step.tolist())) == 4
    for row in range(4):
        arrived = noise[row : row + 1]
        if step[row]:
            model = method.few_step(conditions.rows(slice(row, row + 1)))
            arrived = method.followed(model, arrived, method.run[: int(step[row]) + 1])
        torch.testing.assert_close(own.x[row : row + 1], arrived)
        assert torch.equal(own.landed[row], plain.landed[row])
        assert torch.equal(own.x[row], plain.x[row]) == (step[row] == 0)


@torch.no_grad()
def test_perturbed_states_are_as_far_off_the_path_as_the_students_own_in_another_direction(made):
    options = {"starts": 1.0}
    _, plain = windows(made("single", options).method)
    seen = {}
    for name in ("own", "perturbed"):
        method = made("single", {**options, name: 1.0}).method
        for p in method.trainable.values():
            p.add_(0.01)
        step, seen[name] = windows(method)
    off = {name: (each.x - plain.x).flatten(1) for name, each in seen.items()}
    sizes = {name: each.norm(dim=1) for name, each in off.items()}
    later = step > 0
    assert torch.equal(seen["perturbed"].x[~later], plain.x[~later]), "a run begins without an error"
    torch.testing.assert_close(sizes["perturbed"][later], sizes["own"][later], rtol=0.1, atol=0.0)
    towards = torch.nn.functional.cosine_similarity(off["own"][later], off["perturbed"][later])
    assert towards.abs().max() < 0.1
    assert torch.equal(seen["perturbed"].landed, plain.landed)


@torch.no_grad()
def test_the_detail_expert_meets_what_the_semantic_expert_makes(made):
    method = made("detail", {"own": 1.0, "starts": 1.0, "steps": 2}, validation={"steps": 2}).method
    _, own = windows(method)
    numbers = method.paths.numbers(method.draws(0))
    conditions = method.data.conditions(method.paths.cache.plan.captions(numbers))
    below = method.model(method.roles.below, conditions)
    noise = method.paths.cache.states(numbers, [0])[:, 0]
    torch.testing.assert_close(own.x, method.followed(below, noise, method.run[:2]))


@pytest.mark.parametrize("own_target", ["path", "teacher"])
@torch.no_grad()
def test_where_the_teacher_goes_from_an_own_state_is_another_target(made, own_target):
    method = made("semantic", {"own": 1.0, "starts": 1.0, "own_target": own_target}).method
    for iteration in range(9):  # until the one segment of an iteration is the second, where own states differ
        step, (x, landed, start, end) = windows(method, iteration)
        if own_target == "path" or int(step[0]) == 1:
            break
    draws = method.draws(iteration)
    conditions = method.data.conditions(method.paths.cache.plan.captions(method.paths.numbers(draws)))
    if own_target == "teacher":
        nodes = [node for node in method.nodes if end[0] <= node <= start[0]]
        torch.testing.assert_close(landed, method.followed(method.guided_teacher(conditions), x, nodes))
        assert len(set(step.tolist())) == 1
    else:
        places = [method.paths.cache.positions([each])[0] for each in end.tolist()]
        numbers = method.paths.numbers(draws)
        on_path = [method.paths.cache.states([n], [p])[0, 0] for n, p in zip(numbers, places, strict=True)]
        assert torch.equal(landed, torch.stack(on_path))


@torch.no_grad()
def test_from_clips_the_teacher_solves_what_is_left_of_a_segment(made):
    method = made("semantic", data={"batch_size": 4}).method
    step, (x, landed, start, end) = windows(method)
    draws = method.draws(0)
    batch = method.data.batch(draws)
    assert torch.equal(x, method.process.noised(batch.latents, draws.noise("noise", batch.latents), start))
    nodes = [node for node in method.nodes if end[0] <= node <= start[0]]
    torch.testing.assert_close(landed, method.followed(method.guided_teacher(batch.conditions), x, nodes))


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize("options", [{}, {"own": 0.5}, {"adversarial": 0.5, "matching": 1.0}])
def test_a_step_of_all_kinds(made, expert, options):
    method = made(expert, options).method
    metrics = method.step(0)
    assert (
        {"adversarial", "discriminator", "matching"} <= set(metrics) if "matching" in options else metrics["velocity"]
    )
    assert all(value == value for value in metrics.values())


def test_the_adversary_looks_at_the_last_segment_alone(made):
    """Without a sample of it nothing of the adversary reaches the weights, and nothing is not a number."""
    method = made("single", {"adversarial": 0.5, "matching": 1.0}).method
    plain = made("single").method
    for iteration in range(30):
        batch, draws = method.data.batch(method.draws(iteration)), method.draws(iteration).split(1)[0]
        step, _ = method._drawn(draws)
        told = {name: sum(losses.values()) for name, losses in method.turns(batch.rows(slice(0, 1)), draws)}
        (_, losses), *_ = plain.turns(batch.rows(slice(0, 1)), draws)
        same = torch.equal(told["student"], losses["velocity"])
        assert same == (int(step[0]) != 3) and bool(told["discriminator"] > 0) == (int(step[0]) == 3)


@pytest.mark.parametrize("data", [FROM_PATHS["data"], {"batch_size": 4}])
def test_an_adversary_of_some_samples_is_the_same_in_micro_batches(made, data):
    """However many of the last segment are in each of them."""
    options = {"adversarial": 0.5, "matching": 1.0}
    whole, parts = (made("single", options, data=data, compute={"micro_batch": each}).method for each in (None, 1))
    acted = 0
    for iteration in range(4):
        draws = whole.draws(iteration)
        losses = [method.gradients(method.data.batch(draws), draws) for method in (whole, parts)]
        for learner, own in losses[0].items():
            assert losses[1][learner] == pytest.approx(own, rel=1e-5)
        acted += losses[0]["student"]["matching"] > 0
        for name, learner in whole.learners.items():
            for key, p in learner.parameters.items():
                gradient, found = p.grad, parts.learners[name].parameters[key].grad
                torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-9)
        for method in (whole, parts):
            for learner in method.learners.values():
                learner.forget_gradients()
    assert acted


def test_the_jump_error_falls(made, paths, caplog):
    run = made(
        "semantic", {"starts": 1.0}, iterations=40, optimizer={"lr": 3e-3}, watch={"every": 40, "folder": str(paths)}
    )
    run.run()
    import json

    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    means = [line["jump_error/mean"] for line in lines if "jump_error/mean" in line]
    assert means[-1] < 0.8 * means[0]
    assert "measured on paths that are trained on" in caplog.text, "which no held-out paths are"


def test_the_files_say_for_how_many_steps(made):
    run = made("detail", iterations=1)
    run.run()
    metadata = load_expert(run.folder / "trajectory.safetensors").metadata
    assert (metadata.expert, metadata.trained_steps) == ("detail", 4)


def test_a_whole_network_says_for_how_many_steps(made):
    run = made("single", iterations=1)
    run.run()
    with safe_open(run.folder / "trajectory.safetensors", "pt") as file:
        assert file.metadata()["dcm.trained_steps"] == "4"


@pytest.mark.parametrize(
    ("expert", "options", "settings", "message"),
    [
        ("semantic", {}, {"validation": {"steps": 8}}, "trained for runs of 4 steps, and validation.steps=8"),
        ("detail", {"steps": 1}, {"validation": {"steps": 1}}, "leaves a detail expert none"),
        ("semantic", {}, {"data": {"source": "teacher", "text_dropout": 0.1}}, "belongs to its prompt"),
        ("semantic", {"own": 0.2}, {"data": {"batch_size": 4}}, "own_target=path needs data.source=teacher"),
        ("semantic", {"perturbed": 0.2}, {"data": {"batch_size": 4}}, "own_target=path needs data.source=teacher"),
        ("semantic", {"own": 0.6, "perturbed": 0.6}, {}, "own=0.6 and perturbed=0.6 are shares of the same states"),
        ("semantic", {"rank": "whole"}, {}, "rank=whole is for a detail expert, and mode: full trains all of this one"),
        ("detail", {"rank": "whole", "mode": "adapter"}, {}, "no whole layer can take their place: set mode: full"),
        ("detail", {"rank": "full"}, {}, "rank must be of type int at least 1 or 'whole', not 'full'"),
        ("detail", {"rank": 0}, {}, "^stages.*rank must be of type int at least 1 or 'whole', not 0.$"),
    ],
)
def test_contradictions(made, expert, options, settings, message):
    with pytest.raises(ConfigError, match=message):
        made(expert, options, **settings)


def test_published_levels_are_refused(made):
    with pytest.raises(ConfigError, match="schedule.rule=aligned"):
        made("semantic", schedule={"rule": "official"}, backbone={"name": "wan"})


def test_a_semantic_expert_for_other_numbers_of_steps_is_refused(made, semantic, tmp_path):
    """Below a detail expert for runs of four; one of a consistency training is for any."""
    expert, two = load_expert(semantic), tmp_path / "two.safetensors"
    save_expert(two, replace(expert, metadata=replace(expert.metadata, trained_steps=2)))
    with pytest.raises(ConfigError, match="two.safetensors was trained for runs of 2 steps, and this stage is for 4"):
        made("detail", {"semantic": str(two)})
