"""Released bundles: the expert in them is the one that ran, and bundle -> ComfyUI -> bundle loses no bit."""

from dataclasses import replace

import pytest
import torch
from harness.diffusers_models import detail_state, family_of, infos, opened, random_state, released
from safetensors.torch import save_file

from dcm_core.backbone.bundle import bundle_recipes, bundle_tensors, expert_from_bundle
from dcm_core.backbone.file import BackboneFile
from dcm_core.errors import LayoutError
from dcm_core.expert.check import check
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.fingerprint import norm_tensors
from dcm_core.expert.layers import Difference, FusedLowRank, LowRank, Replacement
from dcm_core.expert.merge import merged
from dcm_core.families.presets import find_family, preset
from dcm_core.files.format import tensor_bytes

BUNDLES = ["wan t2v", "wan i2v", "hunyuan_video t2v", "hunyuan_video i2v"]


def backbone(bundle, to="comfy"):
    file = opened(bundle)
    return {name: file.build(recipe) for name, recipe in file.recipes(to).items()}


def expert_of(bundle, **options):
    return expert_from_bundle(opened(bundle), **options)


def bundle_of(state, expert):
    file = opened(state)
    recipes = bundle_recipes(file, expert)
    made = {name: file.build(recipe) for name, recipe in recipes.items()}
    assert {name: recipe.info(file.infos) for name, recipe in recipes.items()} == infos(made)
    return made | bundle_tensors(file, expert)


def differing(one, other):
    assert infos(one) == infos(other)
    return [name for name in one if tensor_bytes(one[name]) != tensor_bytes(other[name])]


def stored(expert, path, **options):
    save_expert(path, expert, **options)
    return load_expert(path)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", BUNDLES)
def test_the_experts_network_is_the_one_the_bundle_ran(name, exact):
    bundle = released(name)
    expert = expert_of(bundle, exact=exact)
    comfy = backbone(bundle)
    shapes = {key: tuple(tensor.shape) for key, tensor in comfy.items()}
    report = check(expert, shapes, norm_tensors(comfy), family_of(name))
    assert report.ok and not report.warnings, report.describe()
    table = find_family(family_of(name)).keymap
    made, true = merged(comfy, expert), table.state_to_comfy(detail_state(bundle))
    assert made.keys() == true.keys()
    for key in true:
        torch.testing.assert_close(made[key], true[key], rtol=1e-5, atol=1e-5)
    # Neither at another scale nor without the copies.
    for wrong in (detail_state(bundle, scale=1.0), backbone(bundle, "diffusers")):
        assert any((made[key] - tensor).abs().max() > 0.1 for key, tensor in table.state_to_comfy(wrong).items())


def test_which_layers_change():
    wan, hunyuan = (expert_of(released(name)) for name in ("wan t2v", "hunyuan_video t2v"))
    assert {type(layer) for layer in wan.layers.values()} == {LowRank, Difference}
    assert not wan.parameters  # the modulation tables are shared
    fused = {name for name, layer in hunyuan.layers.items() if isinstance(layer, FusedLowRank)}
    refiner = "txt_in.individual_token_refiner.blocks"
    assert fused == {f"double_blocks.{i}.img_attn.qkv" for i in range(2)} | {
        *(f"single_blocks.{i}.linear1" for i in range(3)),
        *(f"{refiner}.{i}.self_attn.qkv" for i in range(2)),
    }
    assert {"final_layer.adaLN_modulation.1", "vector_in.in_layer", f"{refiner}.0.self_attn.proj"} < {*hunyuan.layers}
    assert not any(name.startswith("txt_in.t_embedder") or "txt_attn" in name for name in hunyuan.layers)


@pytest.mark.parametrize("name", BUNDLES[::2])
def test_what_the_expert_says_about_itself(name):
    made = expert_of(released(name)).metadata
    assert (made.expert, made.family, made.rank, made.alpha) == ("detail", family_of(name), 4, 8.0)
    assert made.schedule == preset(family_of(name), "official")
    assert made.complete and made.guidance == 6.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BUNDLES[::2])
def test_bundle_to_files_to_bundle_is_bit_exact(name, dtype, tmp_path):
    bundle = released(name, dtype=dtype)
    exact = expert_of(bundle, exact=True)
    assert any(isinstance(layer, Replacement) for layer in exact.layers.values())
    comfy = {f"model.diffusion_model.{key}": tensor for key, tensor in backbone(bundle).items()}
    for file in (stored(exact, tmp_path / "a"), stored(exact, tmp_path / "b", compact=True)):
        assert not differing(bundle_of(comfy, file), bundle)
        assert not differing(bundle_of(backbone(bundle, "diffusers"), file), bundle)
    # A bundle is a backbone file too: a new detail expert takes the place of its own.
    assert not differing(bundle_of(bundle, exact), bundle)


def test_differences_give_the_copies_back_to_rounding(tmp_path):
    bundle = released("hunyuan_video t2v")
    back = bundle_of(backbone(bundle), stored(expert_of(bundle), tmp_path / "a"))
    inexact = differing(back, bundle)
    assert inexact and all("_lora." in name for name in inexact)
    for name in inexact:
        torch.testing.assert_close(back[name], bundle[name], rtol=0, atol=1e-6)


def test_image_to_video_copies_its_image_embedding_too():
    bundle = released("wan i2v")
    expert = expert_of(bundle)
    assert {"img_emb.proj.1", "img_emb.proj.3"} < {*expert.layers}
    assert {"img_emb.proj.0.weight", "img_emb.proj.4.bias"} <= {*expert.parameters}
    back = bundle_of(backbone(bundle), expert)
    assert back.keys() == bundle.keys()


def test_a_scale_of_its_own_goes_into_the_pair():
    bundle = released("hunyuan_video t2v")
    expert = expert_of(bundle, exact=True)
    for name, layer in expert.layers.items():
        if isinstance(layer, LowRank | FusedLowRank):
            expert.layers[name] = replace(layer, alpha=float(layer.rank))  # half as strong
    back = bundle_of(backbone(bundle), expert)
    for name in bundle:
        factor = 0.5 if ".lora_B." in name else 1.0
        assert back[name].equal(factor * bundle[name])


def test_layers_the_expert_leaves_are_copied_from_the_backbone():
    bundle = released("wan t2v")
    expert = expert_of(bundle, exact=True)
    del expert.layers["text_embedding.2"]
    original = bundle["condition_embedder.text_embedder.linear_2.weight"]
    back = bundle_of(backbone(bundle), expert)
    assert back.keys() == bundle.keys()
    assert back["condition_embedder_lora.text_embedder.linear_2.weight"].equal(original)


def without(name):
    return lambda bundle: bundle.pop(name)


def add(name, *shape):
    return lambda bundle: bundle.update({name: torch.zeros(shape)})


_ATTENTION = "transformer_blocks.0.attn"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "wan t2v",
            without("blocks.0.attn1.to_q.lora_A.lora1.weight"),
            r"blocks\.0\.attn1\.to_q has only half",
        ),
        (
            "wan t2v",
            without("blocks.0.attn1.to_q.base_layer.weight"),
            r"blocks\.0\.attn1\.to_q has .* no weight",
        ),
        (
            "wan t2v",
            without("blocks.0.attn1.to_q.base_layer.bias"),
            r"missing.*blocks\.0\.self_attn\.q\.bias",
        ),
        (
            "wan t2v",
            add("scale_shift_table_lora", 1, 2, 8),
            "scale_shift_table_lora.*condition_embedder_lora",
        ),
        ("wan t2v", add("proj_out_lora.scale", 8), r"proj_out\.scale.*nearest row"),
        ("wan t2v", add("blocks.0.attn1.to_q.lora_A.default.weight", 4, 8), "the LoRA 'default'.*'lora1'"),
        (
            "hunyuan_video t2v",
            add("context_embedder_lora.proj_in.weight", 8, 12),
            "context_embedder_lora.*copies are time_text_embed_lora",
        ),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(name, change, says):
    bundle = released(name)
    change(bundle)
    with pytest.raises(LayoutError, match=says):
        expert_of(bundle)


@pytest.mark.parametrize("lost", ["to_k", "to_q"])
def test_projections_of_one_layer_need_their_adapters_together(lost):
    bundle = released("hunyuan_video t2v")
    for part in "AB":
        del bundle[f"{_ATTENTION}.{lost}.lora_{part}.lora1.weight"]
    with pytest.raises(LayoutError, match=rf"lacks the low-rank pair of {_ATTENTION}\.{lost}\. Download"):
        expert_of(bundle)


def test_an_adapter_where_no_row_has_one_is_refused():
    bundle = released("hunyuan_video t2v")
    single = "single_transformer_blocks.0.proj_mlp"
    bundle |= {
        f"{single}.lora_A.lora1.weight": torch.ones(4, 8),
        f"{single}.lora_B.lora1.weight": torch.ones(24, 4),
    }
    with pytest.raises(LayoutError, match=r"single_blocks\.0\.linear1 needs.*proj_mlp"):
        expert_of(bundle)


def test_what_a_bundle_cannot_hold_is_refused():
    bundle = released("wan t2v")
    comfy = backbone(bundle)
    expert = expert_of(bundle)
    expert.parameters["head.modulation"] = torch.ones(1, 2, 8)
    with pytest.raises(LayoutError, match=r"no second copy of head\.modulation.*export it as an expert file"):
        bundle_of(comfy, expert)
    del expert.parameters["head.modulation"], expert.layers["blocks.1.cross_attn.q"]
    with pytest.raises(LayoutError, match=r"low-rank pair for each of blocks\.1\.attn2\.to_q.*keep it as an expert"):
        bundle_of(comfy, expert)
    with pytest.raises(LayoutError, match="no released bundle"):
        expert_of(random_state("wan t2v"))


@pytest.mark.parametrize("part", ["proj_out_lora.weight", "blocks.0.attn1.to_q.lora_A.lora1.weight"])
def test_a_bundle_whose_expert_was_never_written_is_refused(tmp_path, part):
    bundle = released("wan t2v")
    bundle[part] = torch.zeros_like(bundle[part])
    save_file(bundle, tmp_path / "bundle.safetensors")
    with pytest.raises(LayoutError, match=f"nothing but zeros \\({part}\\)"):
        BackboneFile.open(tmp_path / "bundle.safetensors")
