"""What is measured by noise level is what a training step would meet there, and measuring changes nothing."""

import json

import pytest
import torch

from training import analyze
from training.config import ConfigError, to_yaml
from training.evaluation.dynamics.layers import differences, kind
from training.evaluation.dynamics.measure import measured, over_all_levels
from training.evaluation.jump_error import HeldOut
from training.evaluation.recipe import held_out

GRID = {"schedule": {"shift": 3.0, "points": 8, "kappa_index": 3}, "watch": {"paths": 2}, "validation": {"steps": 4}}
INDEX = [1, 3, 5, 7]


@pytest.fixture
def looked_at(trainer):
    """(method, what was measured) of a tiny network, on two batches of four clips."""

    def made(**settings):
        method = trainer("lcm", **{**GRID, **settings}).method
        found = HeldOut(method, held_out(method, method.config), 4)
        return method, measured(method, found, INDEX, 1, 0)

    return made


def test_losses_and_gradients_are_those_of_the_consistency_loss_at_that_level(looked_at, monkeypatch):
    method, found = looked_at()
    before = {name: p.clone() for name, p in method.trainable.items()}
    assert all(p.grad is None for p in method.trainable.values())
    monkeypatch.setattr("training.run.draws.Draws.indices", lambda self, stream, span: torch.full((4,), INDEX[2]))
    losses = []
    for number in (2, 3):  # the stage has two iterations: these clips come after them
        draws = method.draws(number)
        losses.append(method.gradients(method.data.batch(draws), draws)["student"]["consistency"])
    total = torch.cat([p.grad.flatten() for p in method.trainable.values() if p.grad is not None])
    assert found.loss[2] == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert found.gradient[2] == pytest.approx(float(total.norm()) / 2, rel=1e-4)
    assert all(torch.equal(p, before[name]) for name, p in method.trainable.items())


def test_cosines_are_symmetric_and_gradients_of_equal_clips_are_one_direction(looked_at, monkeypatch):
    _, found = looked_at()
    assert all(found.cosine[i][j] == pytest.approx(found.cosine[j][i], abs=1e-5) for i in range(4) for j in range(4))
    assert 0 < found.cosine[0][0] < 0.999, "of other clips"
    assert len(found.jump_error) == len(found.jump_error_to_end) == 4

    from training.run.draws import Draws

    one = Draws.generator
    monkeypatch.setattr(Draws, "generator", lambda self, stream, row=None: one(Draws(0, 0, 4, range(4)), stream, row))
    _, same = looked_at()
    assert [same.cosine[i][i] for i in range(4)] == pytest.approx([1.0] * 4, abs=1e-4)


def test_micro_batches_measure_the_same(looked_at):
    _, whole = looked_at()
    _, parts = looked_at(compute={"micro_batch": 2})
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.gradient == pytest.approx(whole.gradient, rel=1e-3)


def test_any_distillation_becomes_one_network_over_all_levels(tiny, tmp_path):
    options = {"guidance": 2.0, "tc_weight": 3.0, "per_interval": True}
    config = over_all_levels(tiny(tmp_path, "semantic", options), 5)
    stage = config.selected()
    assert (stage.method, stage.options) == ("lcm", {"guidance": 2.0, "per_interval": True})
    assert config.validation.steps == 5


def test_kinds_of_layers_and_how_far_they_are_apart():
    assert kind("blocks.3.attn1.to_q.weight") == kind("context_embedder.token_refiner.refiner_blocks.0.attn.to_q.bias")
    assert kind("condition_embedder.time_proj.weight") == kind("time_text_embed.timestep_embedder.linear_1.weight")
    assert kind("condition_embedder.text_embedder.linear_1.weight") == "text embedder"
    assert (
        kind("blocks.0.ffn.net.0.proj.weight") == kind("single_transformer_blocks.0.proj_out.weight") == "feed-forward"
    )
    assert (kind("proj_out.weight"), kind("blocks.0.scale_shift_table")) == ("output head", "norms and modulation")
    first = {"proj_out.weight": torch.full((4,), 2.0), "patch_embedding.weight": torch.full((9,), 1.0)}
    second = {"proj_out.weight": torch.full((4,), 2.0), "patch_embedding.weight": torch.full((9,), 1.5)}
    assert differences(first, second) == {"patch embedder": 0.5, "output head": 0.0}
    with pytest.raises(ConfigError, match="different networks"):
        differences(first, {"proj_out.weight": torch.zeros(4)})


def test_the_command_writes_figures_and_numbers(tiny, trained, tmp_path, capsys):
    teacher = trained / "teacher" / "teacher.safetensors"
    config = tiny(tmp_path, "semantic", {"teacher": str(teacher)}, **GRID)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    arguments = ["--config", str(path), "--levels", "4", "--batches", "1", "--after", "1"]
    analyze.main([*arguments, "--experts", str(teacher), str(teacher)])
    folder = tmp_path / "dynamics"
    assert {each.name for each in folder.iterdir()} == {
        "loss.png", "gradient.png", "jump_error.png", "jump_error_to_end.png", "cosine_0.png", "cosine_1.png",
        "dynamics.json", "layers.png", "layers.json",
    }  # fmt: skip
    raw = json.loads((folder / "dynamics.json").read_text())
    assert raw["grid_index"] == INDEX and [each["iteration"] for each in raw["measured"]] == [0, 1]
    assert raw["measured"][0]["loss"] != raw["measured"][1]["loss"]
    assert raw["kappa"]["configured"] == 3 and raw["kappa"]["suggested"] in raw["boundaries"]
    assert not any(json.loads((folder / "layers.json").read_text())["difference"].values())
    told = capsys.readouterr().out
    assert "Suggested kappa_index" in told and "Weights apart" in told
    assert not (tmp_path / "semantic").exists(), "nothing of a training is written"
    with pytest.raises(SystemExit, match="--levels=9 must be between 4 and the 8 points"):
        analyze.main(["--config", str(path), "--levels", "9"])
