"""A detail expert is trained over the semantic expert that it will run with, or it is said that it is not."""

import pytest
from safetensors.torch import load_file, save_file

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
