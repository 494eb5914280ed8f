"""Experts over layers that hold q, k and v: one pair each in memory, a block-diagonal or a compact form in files."""

import os

import pytest
import torch
from harness.experts import UNTOLD, metadata, same_meaning, write_as_is
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.errors import ExpertFileError
from dcm_core.expert.check import check
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.layers import Expert, FusedLowRank, LowRank
from dcm_core.expert.merge import merged
from dcm_core.expert.tensor_names import to_tensors
from dcm_core.files.format import read_header

WIDTH, RANK, MLP = 8, 4, 24
QKV, SINGLE, PLAIN = (
    "double_blocks.0.img_attn.qkv",
    "single_blocks.0.linear1",
    "double_blocks.0.img_attn.proj",
)


def tensor(*shape: int, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def fused(rows: int = 3 * WIDTH, dtype=torch.float32, rank: int = RANK, width: int = WIDTH, seed: int = 0):
    down, up = (
        tensor(3 * rank, width, dtype=dtype, seed=seed),
        tensor(3 * width, rank, dtype=dtype, seed=seed),
    )
    return FusedLowRank(down, up, 2.0 * rank, rows)


def expert(dtype=torch.float32, **layers) -> Expert:
    layers = {QKV: fused(dtype=dtype), SINGLE: fused(3 * WIDTH + MLP, dtype, seed=1), **layers}
    layers[PLAIN] = LowRank(tensor(RANK, WIDTH, dtype=dtype), tensor(WIDTH, RANK, dtype=dtype), 2.0 * RANK)
    return Expert(metadata(family="hunyuan_video", base_fingerprint=""), layers)


def change(layer: FusedLowRank) -> torch.Tensor:
    """What the layer's weight is changed by, from one pair after the other."""
    parts = []
    for part in range(3):
        down = layer.down[part * layer.rank : (part + 1) * layer.rank]
        parts.append(2.0 * layer.up[part * WIDTH : (part + 1) * WIDTH] @ down)
    return torch.cat([*parts, torch.zeros(layer.rows - 3 * WIDTH, WIDTH)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compact", [False, True])
def test_either_form_of_the_file_gives_the_same_expert_back(dtype, compact, tmp_path):
    one = expert(dtype)
    save_expert(tmp_path / "e.safetensors", one, compact=compact)
    back = load_expert(tmp_path / "e.safetensors")
    assert {name: type(layer) for name, layer in back.layers.items()} == {
        QKV: FusedLowRank,
        SINGLE: FusedLowRank,
        PLAIN: LowRank,
    }
    assert same_meaning(back, one)
    assert back.layers[SINGLE].rows == 3 * WIDTH + MLP and back.layers[SINGLE].alpha == 2.0 * RANK
    assert read_header(tmp_path / "e.safetensors").tensors.keys() == to_tensors(one, compact).keys()


def test_the_block_form_is_an_ordinary_pair():
    one = expert()
    tensors = to_tensors(one)
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight", ".alpha")) for key in tensors)
    for name in (QKV, SINGLE):
        down, up, alpha = (
            tensors[f"diffusion_model.{name}.{key}"] for key in ("lora_A.weight", "lora_B.weight", "alpha")
        )
        assert alpha == 2.0 * 3 * RANK and down.shape[0] == 3 * RANK
        torch.testing.assert_close(alpha / down.shape[0] * up @ down, change(one.layers[name]))


def test_the_compact_form_is_small_and_no_ordinary_lora(tmp_path):
    one = expert()
    sizes = []
    for compact in (False, True):
        save_expert(tmp_path / "e", one, compact=compact)
        sizes.append(os.path.getsize(tmp_path / "e"))
    zeros = 2 * 3 * WIDTH * RANK + (2 * 3 * WIDTH + 3 * MLP) * RANK
    assert sizes[0] - sizes[1] > 0.9 * 4 * zeros
    layer = {key for key in to_tensors(one, compact=True) if QKV in key}
    assert not any("lora" in key for key in layer)


def test_merged_weights_and_the_report_count_every_part():
    one = expert()
    state = {f"{name}.weight": torch.ones(layer.shapes["weight"]) for name, layer in one.layers.items()}
    result = merged(state, one)
    for name in (QKV, SINGLE):
        torch.testing.assert_close(result[f"{name}.weight"], 1 + change(one.layers[name]))
    report = check(one, {name: tuple(each.shape) for name, each in state.items()})
    assert report.ok
    assert report.norms[SINGLE] == pytest.approx(float(change(one.layers[SINGLE]).norm()), rel=1e-4)
    wrong = check(one, {name: (5, WIDTH) for name in state})
    assert wrong.misshaped[f"{SINGLE}.weight"] == ((3 * WIDTH + MLP, WIDTH), (5, WIDTH))


def test_a_pair_that_is_more_than_its_blocks_stays_whole(tmp_path):
    """A low-rank semantic expert, for example, whose up has no zeros."""
    full = LowRank(tensor(3 * RANK, WIDTH), tensor(3 * WIDTH, 3 * RANK), 1.0)
    below = fused(3 * WIDTH + MLP).block
    below.up[-1, 0] = 1.0
    odd = LowRank(tensor(4, WIDTH), torch.zeros(3 * WIDTH, 4), 1.0)
    one = Expert(metadata(family="hunyuan_video", **UNTOLD), {QKV: full, SINGLE: below, f"{QKV[:13]}1{QKV[14:]}": odd})
    save_expert(tmp_path / "e", one)
    back = load_expert(tmp_path / "e")
    assert all(type(layer) is LowRank for layer in back.layers.values()) and same_meaning(back, one)


@pytest.mark.parametrize("family", ["wan", "some_other"])
def test_other_families_keep_block_diagonal_pairs(family, tmp_path):
    one = Expert(metadata(family=family, **UNTOLD), {"blocks.0.self_attn.q": fused().block})
    save_expert(tmp_path / "e", one)
    assert type(load_expert(tmp_path / "e").layers["blocks.0.self_attn.q"]) is LowRank


@given(
    rank=st.integers(1, 5),
    width=st.integers(1, 6),
    more=st.integers(0, 7),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_the_block_form_loses_nothing(rank, width, more, dtype):
    layer = fused(3 * width + more, dtype, rank, width)
    back = FusedLowRank.from_block(layer.block, 3)
    assert back.down.equal(layer.down) and back.up.equal(layer.up) and back.up.dtype == dtype
    assert (back.alpha, back.rows, back.scale) == (layer.alpha, layer.rows, 2.0)


@pytest.mark.parametrize(
    ("down", "up", "rows"),
    [
        ((12, 8), (24, 5), 24),
        ((12, 8), (24, 4), 23),
        ((12, 8), (16, 4), 24),
        ((12, 8), (24, 0), 24),
        ((0, 8), (0, 4), 8),
    ],
)
def test_tensors_that_are_no_pairs_are_refused(down, up, rows):
    with pytest.raises(ExpertFileError, match="fused low-rank pairs need"):
        FusedLowRank(torch.ones(down), torch.ones(up), 1.0, rows)


@pytest.mark.parametrize("lost", ["fused_down", "fused_up", "fused_alpha", "fused_rows"])
def test_a_compact_file_without_one_of_its_tensors_is_refused(lost, tmp_path):
    one = expert()
    tensors = {
        key: each for key, each in to_tensors(one, compact=True).items() if key != f"diffusion_model.{QKV}.{lost}"
    }
    header = one.metadata.to_header() | {"dcm.layers": "3", "dcm.parameters": ""}
    write_as_is(tmp_path / "e", tensors, header)
    with pytest.raises(ExpertFileError, match=f"{QKV}: fused low-rank pairs without its {lost}"):
        load_expert(tmp_path / "e")
