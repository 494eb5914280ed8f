"""An expert merged into weights: what a trainer starts from and what a merged export holds."""

import pytest
import torch
from harness.experts import DIM, expert, metadata

from dcm_core.errors import ExpertFileError
from dcm_core.expert.layers import Difference, Expert, LowRank
from dcm_core.expert.merge import merged


def test_only_what_the_expert_names_is_changed_and_nothing_in_place():
    state = {
        "a.weight": torch.ones(2, 3),
        "a.bias": torch.ones(2),
        "b.weight": torch.ones(2, 2),
        "t": torch.ones(1, 2),
    }
    kept = {name: tensor.clone() for name, tensor in state.items()}
    down, up = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    one = Expert(
        metadata(),
        {"a": LowRank(down, up, alpha=2.0), "b": Difference(torch.full((2, 2), 4.0))},
        {"t": torch.tensor([[1.0, 0.0]])},
    )
    result = merged(state, one, strength=0.5)
    assert torch.equal(result["a.weight"], torch.tensor([[2.0, 3.0, 4.0], [0.0, -1.0, -2.0]]))
    assert torch.equal(result["b.weight"], torch.full((2, 2), 3.0))
    assert torch.equal(result["t"], torch.tensor([[1.5, 1.0]]))
    assert result["a.bias"] is state["a.bias"]
    assert all(torch.equal(state[name], kept[name]) for name in state)


def test_the_backbones_dtype_is_kept_and_sums_are_made_in_float32():
    state = {"a.weight": torch.full((1, 1), 256.0, dtype=torch.bfloat16)}
    one = Expert(metadata(), {"a": Difference(torch.full((1, 1), 1.5))})
    result = merged(state, one)["a.weight"]
    assert result.dtype == torch.bfloat16
    assert result.item() == 258.0  # 257.5 rounded once; 256 in steps of bfloat16 would never move


def test_names_the_backbone_lacks_are_an_error():
    state = {"blocks.0.self_attn.q.weight": torch.ones(DIM, DIM)}
    with pytest.raises(ExpertFileError, match="blocks.0.modulation.*and 1 more"):
        merged(state, expert())
