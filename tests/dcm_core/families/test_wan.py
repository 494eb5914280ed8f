"""The Wan table against diffusers' real class, text-to-video and image-to-video."""

import pytest
import torch

from dcm_core.families.keymap import KeyMap, Row, UnknownKeyError
from dcm_core.families.presets import find_family

WAN = find_family("wan").keymap


@pytest.fixture(scope="module", params=["t2v", "i2v"])
def model(request):
    diffusers = pytest.importorskip("diffusers")
    image = {"image_dim": 12, "added_kv_proj_dim": 8, "pos_embed_seq_len": 6} if request.param == "i2v" else {}
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, text_dim=8, freq_dim=8,
        ffn_dim=16, num_layers=12, **image,
    )  # fmt: skip


def test_every_weight_of_the_real_model_goes_there_and_back(model):
    state = model.state_dict()
    comfy = WAN.state_to_comfy(state)
    assert len(comfy) == len(state)
    back = WAN.state_to_diffusers(comfy)
    assert back.keys() == state.keys()
    assert all(back[name] is not None and torch.equal(back[name], state[name]) for name in state)


def test_the_names_are_the_hosts():
    expected = {
        "patch_embedding.weight": "patch_embedding.weight",
        "condition_embedder.time_embedder.linear_1.bias": "time_embedding.0.bias",
        "condition_embedder.time_embedder.linear_2.weight": "time_embedding.2.weight",
        "condition_embedder.time_proj.weight": "time_projection.1.weight",
        "condition_embedder.text_embedder.linear_1.weight": "text_embedding.0.weight",
        "condition_embedder.text_embedder.linear_2.bias": "text_embedding.2.bias",
        "blocks.0.attn1.to_q.weight": "blocks.0.self_attn.q.weight",
        "blocks.29.attn2.to_out.0.bias": "blocks.29.cross_attn.o.bias",
        "blocks.3.attn1.norm_k.weight": "blocks.3.self_attn.norm_k.weight",
        "blocks.3.norm2.weight": "blocks.3.norm3.weight",
        "blocks.3.ffn.net.0.proj.weight": "blocks.3.ffn.0.weight",
        "blocks.3.ffn.net.2.bias": "blocks.3.ffn.2.bias",
        "blocks.12.scale_shift_table": "blocks.12.modulation",
        "scale_shift_table": "head.modulation",
        "proj_out.weight": "head.head.weight",
        "blocks.5.attn2.add_k_proj.weight": "blocks.5.cross_attn.k_img.weight",
        "condition_embedder.image_embedder.ff.net.2.weight": "img_emb.proj.3.weight",
    }
    for diffusers, comfy in expected.items():
        assert WAN.to_comfy(diffusers) == comfy
        assert WAN.to_diffusers(comfy) == diffusers
    assert WAN.module_to_comfy("blocks.7.attn2.to_out.0") == "blocks.7.cross_attn.o"
    assert WAN.module_to_diffusers("time_projection.1") == "condition_embedder.time_proj"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("blocks.4.attn1.to_qq.weight", "blocks.{i}.attn1.to_q.weight"),
        ("blocks.4.attn1.to_q", "blocks.{i}.attn1.to_q.bias"),
        ("blocks.x.attn1.to_q.weight", "blocks.{i}.attn1.to_q.weight"),
        ("blocks.04.attn1.to_q.weight", "blocks.{i}.attn1.to_q.weight"),
        ("blocks.{i}.attn1.to_q.weight", "blocks.{i}.attn1.to_q.weight"),
        ("blocks.-1.norm2.bias", "blocks.{i}.norm2.bias"),
        ("proj_out_lora.weight", "proj_out.weight"),
        ("diffusion_model.proj_out.weight", "proj_out.weight"),
        ("", None),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_row(name, nearest):
    with pytest.raises(UnknownKeyError) as caught:
        WAN.state_to_comfy({"proj_out.weight": 0, name: 1})
    assert repr(name) in str(caught.value)
    table = {row.diffusers: row.comfy for row in WAN.rows}
    assert nearest is None or f"{nearest} -> {table[nearest]}" in str(caught.value)


def test_a_name_of_the_other_side_is_unknown():
    with pytest.raises(UnknownKeyError, match="no diffusers name"):
        WAN.to_comfy("blocks.0.self_attn.q.weight")
    with pytest.raises(UnknownKeyError, match="no comfy name"):
        WAN.to_diffusers("blocks.0.attn1.to_q.weight")


def test_what_a_detail_expert_changes(model):
    names = list(WAN.state_to_comfy(model.state_dict()))
    low_rank, replaced = WAN.detail_layers(names)
    assert len(low_rank) == 12 * 2 * 4
    assert {name.split(".", 2)[2] for name in low_rank} == {
        f"{attention}.{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"
    }
    assert {int(name.split(".")[1]) for name in low_rank} == set(range(12))
    embedders = {
        "time_embedding.0",
        "time_embedding.2",
        "time_projection.1",
        "text_embedding.0",
        "text_embedding.2",
    }
    assert set(replaced) == embedders | {"head.head"}
    for name in (*low_rank, *replaced):
        assert f"{name}.weight" in names and f"{name}.bias" in names
        module = model.get_submodule(WAN.module_to_diffusers(name))
        assert isinstance(module, torch.nn.Linear)


@pytest.mark.parametrize(
    "rows",
    [
        (Row("a.weight", "x"), Row("b.weight", "x")),
        (Row("a.weight", "x"), Row("a.weight", "y")),
        (Row("a.{i}.weight", "x"),),
        (Row("a.{i}.{i}", "x.{i}.{i}"),),
    ],
)
def test_a_table_that_is_no_bijection_is_refused(rows):
    with pytest.raises(ValueError, match="key map test"):
        KeyMap("test", rows, (), (), recognised_by=rows[0], variant=str)


def test_shapes_is_of_the_wan_class_and_others_are_unknown():
    assert find_family("shapes").keymap is WAN
    with pytest.raises(ValueError, match="known are .*, shapes, wan"):
        find_family("mochi")
