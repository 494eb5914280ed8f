"""An iteration that is computed in other pieces is the same iteration."""

import json

import pytest
import torch

from training.data.batch import Conditions
from training.data.bucketed import padded
from training.run.draws import Draws


def gathered(method):
    """The losses of an iteration and the gradients of every learner."""
    draws = method.draws(0)
    losses = method.gradients(method.data.batch(draws), draws)
    found = {
        (role, name): p.grad for role, learner in method.learners.items() for name, p in learner.parameters.items()
    }
    return losses, found


@pytest.mark.parametrize("mode", ["full", "adapter"])
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_gather_the_gradients_of_the_batch(trainer, mode, size):
    """Of both learners: the discriminator's too, and with parts that are not equally large."""
    whole, parts = (
        trainer("detail", {"mode": mode, "real": "data"}, compute={"micro_batch": each}).method for each in (None, size)
    )
    losses, expected = gathered(whole)
    split, found = gathered(parts)
    assert split.keys() == {"student", "discriminator"}
    for learner, own in losses.items():
        assert split[learner] == pytest.approx(own, rel=1e-5)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


def test_draws_are_split_by_rows_of_the_whole_batch():
    rank = Draws(0, 3, 10, range(4, 9))
    assert [part.rows for part in rank.split(2)] == [range(4, 6), range(6, 8), range(8, 9)]
    assert rank.split(None) == [rank]
    parts = torch.cat([part.indices("index", range(50)) for part in rank.split(2)])
    assert torch.equal(parts, rank.indices("index", range(50)))


def test_texts_of_other_lengths_are_joined_with_their_masks():
    """Captions of a cache are as long as they are, and that of no caption is shorter."""
    captions, none = padded([{"text": torch.ones(n, 2)} for n in (3, 5)]), padded([{"text": torch.ones(1, 2)}] * 2)
    both = captions.joined(none)
    assert both.text.sum((1, 2)).tolist() == [6, 10, 2, 2] and both.mask.sum(1).tolist() == [3, 5, 1, 1]
    assert captions.joined(captions).mask.sum(1).tolist() == [3, 5, 3, 5]
    assert none.joined(none).mask is None


@pytest.mark.parametrize("mode", ["full", "adapter"])
def test_a_guided_teacher_asked_once_is_the_same(trainer, mode):
    twice, once = (
        trainer("semantic", {"mode": mode}, compute={"batched_guidance": each}).method for each in (False, True)
    )
    batch = twice.data.batch(twice.draws(0))
    sigma, calls = torch.tensor([0.2, 0.5, 0.7, 0.9]), []
    once.teacher.network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    with torch.no_grad():
        expected = twice.guided_teacher(batch.conditions)(batch.latents, sigma)
        found = once.guided_teacher(batch.conditions)(batch.latents, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert calls == [8]
    assert once.step(0) == pytest.approx(twice.step(0), rel=1e-4)


def test_conditions_are_joined_field_by_field():
    one, other = (Conditions(torch.full((2, 1, 3), each), pooled=torch.full((2, 4), each)) for each in (1.0, 2.0))
    both = one.joined(other)
    assert both.text[:, 0, 0].tolist() == both.pooled[:, 0].tolist() == [1, 1, 2, 2] and both.mask is None


def test_fused_adamw_takes_the_same_step(trainer):
    plain, fused = (trainer("semantic", optimizer={"lr": 1e-3, "fused": each}).method for each in (False, True))
    for iteration in range(2):
        plain.step(iteration)
        fused.step(iteration)
    for name, p in plain.trainable.items():
        torch.testing.assert_close(fused.trainable[name], p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["semantic", "detail"])
def test_only_the_student_and_what_it_is_judged_by_keep_a_graph(trainer, stage):
    """Of an iteration's network calls, those with gradient: the student's, and the teacher's look at its jump."""
    method = trainer(stage, {"real": "data"} if stage == "detail" else {}).method
    with_graph = []
    for role, player in (("student", method.student), ("teacher", method.teacher)):
        player.network.register_forward_hook(
            lambda _, __, output, role=role: with_graph.append(role) if output[0].requires_grad else None
        )
    turns = method.turns(method.data.batch(method.draws(0)), method.draws(0))
    next(turns)
    assert with_graph == {"semantic": ["student"], "detail": ["student", "teacher"]}[stage]
    for _, losses in turns:  # the discriminator's: its own weights, and nothing behind the features
        leaves, seen = [losses["discriminator"].grad_fn], set()
        while leaves:
            node = leaves.pop()
            if node is not None and node not in seen:
                seen.add(node)
                leaves += [following for following, _ in node.next_functions]
        reached = {id(node.variable) for node in seen if hasattr(node, "variable")}
        assert reached == {id(p) for p in method.adversary.discriminator.parameters()}


def test_what_is_measured_asks_for_no_more_clips_at_once_than_training(trainer, tmp_path):
    """Validation clips, held-out paths, jump errors and the verdict, of student and teacher; they stay the same."""
    prompts = [f"a {colour} plain square moving up slowly" for colour in ("red", "green", "blue")]

    def logged(micro_batch):
        run = trainer(
            "semantic",
            folder=tmp_path / str(micro_batch),
            iterations=1,
            compute={"micro_batch": micro_batch},
            schedule={"shift": 3.0, "points": 8, "kappa_index": 3},
            validation={"every": 1, "steps": 2, "prompts": prompts},
            watch={"every": 1, "paths": 3, "floor_paths": 3},
        )
        asked = []
        for network in run.method.networks:
            network.register_forward_pre_hook(lambda _, arguments: asked.append(len(arguments[0])))
        run.run()
        lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        return max(asked), {name: value for line in lines for name, value in line.items() if "/" in name}

    (most, whole), (few, parts) = logged(None), logged(2)
    assert most > 3 and few == 2
    assert {"jump_error/mean", "jump_error/mean_floor", "validation/motion_ratio"} <= whole.keys()
    assert parts == pytest.approx(whole, rel=1e-3)
