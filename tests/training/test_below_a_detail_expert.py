"""A detail expert is trained over the semantic expert that it will run with, or it is said that it is not."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.layers import LowRank
from training.config import ConfigError
from training.trainer import build_trainer


@pytest.fixture
def other_teacher(trained, tmp_path):
    """A file of the same backbone with other weights, as of a fine-tune."""
    state = load_file(trained / "teacher" / "teacher.safetensors")
    path = tmp_path / "other.safetensors"
    save_file({name: 1.1 * tensor for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("mode", ["full", "adapter"])
def test_a_semantic_expert_over_other_weights_is_said_where_it_is_named(trainer, other_teacher, caplog, mode):
    trainer("detail", {"mode": mode})
    assert not caplog.records
    trainer("detail", {"mode": mode, "teacher": str(other_teacher)})
    assert "was trained over a backbone with other weights than this stage's teacher has" in caplog.text


def test_this_runs_own_over_other_weights_is_refused(trainer, tiny, tmp_path, other_teacher):
    trainer("semantic", iterations=1).run()
    config = tiny(tmp_path, "detail", {"teacher": str(other_teacher), "rank": 2})
    with pytest.raises(ConfigError, match="other weights than this .* --restart stage=semantic"):
        build_trainer(config)


def test_a_detail_expert_in_its_place_is_refused(trainer):
    made = trainer("detail", iterations=1)
    made.run()
    with pytest.raises(ConfigError, match="detail.safetensors is a detail expert. Run stage=semantic first"):
        trainer("detail", {"semantic": str(made.folder / "detail.safetensors")})


def test_pairs_of_several_alphas_act_as_in_the_file(trainer, trained, adapted, tmp_path):
    """Of a file that was not made here: its header then says none."""
    expert, file = load_expert(adapted), tmp_path / "several.safetensors"
    pairs = [name for name, layer in expert.layers.items() if isinstance(layer, LowRank)]
    changed = {name: replace(expert.layers[name], alpha=18.0) for name in pairs[::2]}
    save_expert(
        file,
        replace(expert, metadata=replace(expert.metadata, rank=None, alpha=None), layers=expert.layers | changed),
    )
    method = trainer("detail", {"mode": "adapter", "semantic": str(file)}).method
    wanted = method.backbone.load(trained / "teacher" / "teacher.safetensors")
    method.backbone.apply(wanted, load_expert(file))
    batch, sigma = method.data.batch(method.draws(0)), torch.full((4,), 0.9)
    with torch.no_grad():
        found, wanted = (
            method.model(role, batch.conditions)(batch.latents, sigma) for role in (method.roles.below, wanted)
        )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
