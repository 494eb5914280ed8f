"""An expert written on one host version and used on another, where HunyuanVideo's norms have other names."""

import pytest
import torch
from harness.experts import expert, metadata, same_meaning

from dcm_core.expert.check import check
from dcm_core.expert.host_names import in_host_names
from dcm_core.expert.layers import Difference, Expert, LowRank
from dcm_core.expert.merge import merged

NORM, PROJ = "double_blocks.1.img_attn.norm.query_norm", "double_blocks.1.img_attn.proj"
OLD, NEW = f"{NORM}.scale", f"{NORM}.weight"


def semantic(**parts) -> Expert:
    layers = {PROJ: Difference(torch.ones(2, 2))} | parts.get("layers", {})
    return Expert(metadata(expert="semantic", family="hunyuan_video", base_fingerprint="", rank=None, alpha=None,
                           complete=True), layers, parts.get("parameters", {}))  # fmt: skip


def state(norm: str) -> dict[str, torch.Tensor]:
    return {f"{PROJ}.weight": torch.zeros(2, 2), norm: torch.ones(2)}


MADE = {
    "on an older host": semantic(parameters={OLD: torch.full((2,), 3.0)}),
    "on a newer host": semantic(layers={NORM: Difference(torch.full((2,), 3.0))}),
}


@pytest.mark.parametrize("norm", [OLD, NEW])
@pytest.mark.parametrize("made", MADE)
def test_an_expert_fits_either_host(made, norm):
    there = state(norm)
    shapes = {name: tuple(tensor.shape) for name, tensor in there.items()}
    report = check(MADE[made], shapes)
    assert report.ok and norm in report.matched, report.describe()
    assert merged(there, MADE[made])[norm].equal(torch.full((2,), 4.0))


@pytest.mark.parametrize("norm", [OLD, NEW])
def test_to_the_other_spelling_and_back(norm):
    one = semantic(parameters={norm: torch.ones(2)})
    other = in_host_names(one, state(NEW if norm == OLD else OLD))
    assert [*other.parameters] != [*one.parameters]
    assert same_meaning(in_host_names(other, state(norm)), one)
    assert in_host_names(one, state(norm)) is one


def test_nothing_else_is_renamed():
    wan = expert()
    assert in_host_names(wan, ["head.modulation"]) is wan
    odd = semantic(
        layers={NORM: LowRank(torch.ones(1, 2), torch.ones(2, 1), 1.0)}, parameters={"x.scale": torch.ones(2)}
    )
    assert in_host_names(odd, state(OLD)) is odd
    assert not check(odd, {name: (2, 2) for name in state(OLD)}).ok
