"""The HunyuanVideo table: what is fused, what is swapped, and what a detail expert changes."""

import pytest
import torch
from harness.diffusers_models import random_state

from dcm_core.families.keymap import UnknownKeyError
from dcm_core.families.presets import find_family

HUNYUAN = find_family("hunyuan_video").keymap


@pytest.fixture(scope="module")
def state():
    return random_state("hunyuan_video t2v")


@pytest.fixture(scope="module")
def comfy(state):
    return HUNYUAN.state_to_comfy(state)


def test_q_k_and_v_are_rows_of_one_weight_in_this_order(state, comfy):
    places = {
        "double_blocks.1.img_attn.qkv": ("transformer_blocks.1.attn", ("to_q", "to_k", "to_v")),
        "double_blocks.1.txt_attn.qkv": (
            "transformer_blocks.1.attn",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
        ),
        "txt_in.individual_token_refiner.blocks.0.self_attn.qkv": (
            "context_embedder.token_refiner.refiner_blocks.0.attn",
            ("to_q", "to_k", "to_v"),
        ),
    }
    for fused, (module, parts) in places.items():
        for kind in ("weight", "bias"):
            assert comfy[f"{fused}.{kind}"].equal(torch.cat([state[f"{module}.{part}.{kind}"] for part in parts]))
    single = "single_transformer_blocks.2"
    parts = [f"{single}.attn.to_q", f"{single}.attn.to_k", f"{single}.attn.to_v", f"{single}.proj_mlp"]
    for kind in ("weight", "bias"):
        assert comfy[f"single_blocks.2.linear1.{kind}"].equal(torch.cat([state[f"{p}.{kind}"] for p in parts]))


def test_the_last_modulation_has_shift_before_scale(state, comfy):
    for kind in ("weight", "bias"):
        scale, shift = state[f"norm_out.linear.{kind}"].chunk(2)
        assert comfy[f"final_layer.adaLN_modulation.1.{kind}"].equal(torch.cat([shift, scale]))
        assert not comfy[f"final_layer.adaLN_modulation.1.{kind}"].equal(state[f"norm_out.linear.{kind}"])
    # Every other modulation keeps its order.
    for ours, theirs in {
        "double_blocks.0.img_mod.lin": "transformer_blocks.0.norm1.linear",
        "double_blocks.0.txt_mod.lin": "transformer_blocks.0.norm1_context.linear",
        "single_blocks.0.modulation.lin": "single_transformer_blocks.0.norm.linear",
        "txt_in.individual_token_refiner.blocks.1.adaLN_modulation.1": (
            "context_embedder.token_refiner.refiner_blocks.1.norm_out.linear"
        ),
    }.items():
        assert comfy[f"{ours}.weight"].equal(state[f"{theirs}.weight"])


def test_the_names_are_the_hosts(state, comfy):
    for theirs, ours in {
        "x_embedder.proj.weight": "img_in.proj.weight",
        "time_text_embed.timestep_embedder.linear_1.weight": "time_in.in_layer.weight",
        "time_text_embed.guidance_embedder.linear_2.weight": "guidance_in.out_layer.weight",
        "time_text_embed.text_embedder.linear_1.weight": "vector_in.in_layer.weight",
        "context_embedder.time_text_embed.timestep_embedder.linear_2.bias": "txt_in.t_embedder.out_layer.bias",
        "context_embedder.time_text_embed.text_embedder.linear_1.weight": "txt_in.c_embedder.in_layer.weight",
        "transformer_blocks.1.attn.norm_added_k.weight": "double_blocks.1.txt_attn.norm.key_norm.scale",
        "transformer_blocks.1.attn.norm_q.weight": "double_blocks.1.img_attn.norm.query_norm.scale",
        "transformer_blocks.1.ff_context.net.2.weight": "double_blocks.1.txt_mlp.2.weight",
        "transformer_blocks.1.ff.net.0.proj.weight": "double_blocks.1.img_mlp.0.weight",
        "single_transformer_blocks.0.attn.norm_k.weight": "single_blocks.0.norm.key_norm.scale",
        "single_transformer_blocks.0.proj_out.weight": "single_blocks.0.linear2.weight",
        "proj_out.weight": "final_layer.linear.weight",
    }.items():
        assert comfy[ours] is state[theirs], ours


def test_the_norms_of_newer_hosts_have_another_name(state, comfy):
    renamed = {name.removesuffix(".scale") + ".weight" if name.endswith(".scale") else name: tensor
               for name, tensor in comfy.items()}  # fmt: skip
    assert renamed.keys() != comfy.keys() and not HUNYUAN.missing(renamed)
    back = HUNYUAN.state_to_diffusers(renamed)
    assert back.keys() == state.keys() and all(back[name].equal(state[name]) for name in state)


def test_what_a_detail_expert_changes(comfy):
    low_rank, replaced = HUNYUAN.detail_layers(comfy)
    # All in all 208 diffusers projections in the 13B model: 4 x 20 + 3 x 40 + 4 x 2.
    assert sum(HUNYUAN.projections(name) for name in low_rank) == 4 * 2 + 3 * 3 + 4 * 2
    assert not any("txt_attn" in name or "linear2" in name or "mlp" in name for name in low_rank)
    assert sum(name.startswith("txt_in.individual_token_refiner") for name in low_rank) == 4
    assert set(replaced) == {
        *(f"{name}.{part}_layer" for name in ("time_in", "guidance_in", "vector_in") for part in ("in", "out")),
        "final_layer.adaLN_modulation.1",
        "final_layer.linear",
    }
    without_guidance = [name for name in comfy if not name.startswith("guidance_in.")]
    assert not any("guidance" in name for name in HUNYUAN.detail_layers(without_guidance)[1])


def test_a_part_that_is_missing_is_named(state, comfy):
    cut = {name: tensor for name, tensor in state.items() if name != "transformer_blocks.1.attn.to_k.weight"}
    with pytest.raises(ValueError, match=r"transformer_blocks\.1\.attn\.to_k\.weight missing.*img_attn\.qkv"):
        HUNYUAN.state_to_comfy(cut)
    cut = {name: tensor for name, tensor in comfy.items() if name != "single_blocks.0.linear1.weight"}
    with pytest.raises(ValueError, match=r"single_blocks\.0\.linear1\.weight missing"):
        HUNYUAN.state_to_diffusers(cut)
    narrow = comfy | {"double_blocks.0.img_attn.qkv.weight": torch.zeros(16, 8)}
    with pytest.raises(ValueError, match=r"double_blocks\.0\.img_attn\.qkv\.weight has 16 rows"):
        HUNYUAN.state_to_diffusers(narrow)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        (
            "transformer_blocks.4.attn.to_qq.weight",
            "transformer_blocks.{i}.attn.to_q.weight -> double_blocks.{i}.img_attn.qkv.weight",
        ),
        (
            "transformer_blocks.4.attn.to_out.weight",
            "transformer_blocks.{i}.attn.to_out.0.weight -> double_blocks.{i}.img_attn.proj.weight",
        ),
        (
            "context_embedder_lora.proj_in.weight",
            "context_embedder.proj_in.weight -> txt_in.input_embedder.weight",
        ),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_row(name, nearest):
    with pytest.raises(UnknownKeyError) as caught:
        HUNYUAN.to_comfy(name)
    assert repr(name) in str(caught.value) and str(caught.value).endswith(nearest)


def test_an_unknown_name_of_the_host_too():
    with pytest.raises(UnknownKeyError, match=r"linear1\.weight -> .*to_q.* \+ .*to_k.* \+ .*to_v.* \+ .*proj_mlp"):
        HUNYUAN.to_diffusers("single_blocks.0.linear11.weight")
    with pytest.raises(UnknownKeyError, match="is 3 weights in diffusers"):
        HUNYUAN.to_diffusers("double_blocks.0.img_attn.qkv.weight")
