"""What a dry run says of the teacher's paths: the same as the command that makes them."""

from dataclasses import replace

import pytest
import torch

from training.estimate.paths import plan
from training.estimate.probe import Counter
from training.estimate.stage import need
from training.evaluation.recipe import training_plan
from training.registry import build_backbone, estimated
from training.words import work


def test_the_paths_are_those_that_are_made(trainer):
    run = trainer("semantic", paths={"count": 5, "batch_size": 4, "steps": [2, 4]})
    config, method = run.config, run.method
    shape = method.data.latent_shape
    assert plan(config, method.options, shape) is None and "paths" not in estimated(config, None, None, 350.0).text
    config.data.source = "teacher"
    said, made = plan(config, method.options, shape), training_plan(method, config)
    assert said == replace(made, recipe=said.recipe, prompts=[])
    assert (said.calls, said.batch_bytes) == (made.calls, made.batch_bytes)
    clip, told = torch.randn(1, *shape), method.data.conditions(["a red plain circle moving left slowly"])
    with torch.no_grad(), Counter() as counter:
        method.teacher(clip, torch.tensor([900.0]), told)
    found = need(config, type(method), method.options, build_backbone, None, shape)
    assert found.call == pytest.approx(counter.flop, rel=1e-3)
    text = estimated(config, None, None, 350.0).text
    assert f"8 of {made.calls} calls, {work(8 * made.calls * found.call)}" in text
