"""Every family in every layout: recognised, taken to the other layouts and back bit for bit, or refused in words."""

import pytest
import torch
from harness.diffusers_models import (
    MODELS,
    family_of,
    infos,
    network,
    opened,
    random_state,
    released,
    with_header,
)

from dcm_core.backbone.layouts import count_text
from dcm_core.errors import LayoutError
from dcm_core.families.presets import find_family
from dcm_core.files.format import TensorInfo, tensor_bytes

PREFIXES = ["model.diffusion_model.", "diffusion_model.", ""]


def converted(state, to):
    """The backbone of a file, as the recipes make it from the header alone, with the shapes they promised."""
    file = opened(state)
    made = {name: file.build(recipe) for name, recipe in file.recipes(to).items()}
    assert {name: recipe.info(file.infos) for name, recipe in file.recipes(to).items()} == infos(made)
    return made


def same(one, other):
    return infos(one) == infos(other) and all(tensor_bytes(one[name]) == tensor_bytes(other[name]) for name in one)


@pytest.mark.parametrize("name", MODELS)
def test_every_family_goes_to_the_other_layout_and_back(name):
    state = random_state(name, dtype=torch.bfloat16)
    assert opened(state).layout.kind == "diffusers"
    assert same(converted(state, "diffusers"), state)
    comfy = converted(state, "comfy")
    assert same(comfy, find_family(family_of(name)).keymap.state_to_comfy(state))
    for prefix in PREFIXES:
        prefixed = {prefix + key: tensor for key, tensor in comfy.items()}
        layout = opened(prefixed).layout
        assert (layout.family.name, layout.kind, layout.prefix) == (family_of(name), "comfy", prefix)
        assert layout.dtype == "BF16" and layout.parameters == sum(tensor.numel() for tensor in state.values())
        assert same(converted(prefixed, "comfy"), comfy)
        assert same(converted(prefixed, "diffusers"), state)


@pytest.mark.parametrize("name", ["wan t2v", "hunyuan_video t2v"])
def test_the_backbone_of_a_bundle_is_what_the_adapter_lies_over(name):
    bundle, state = released(name), random_state(name)
    layout = opened(bundle).layout
    assert (layout.kind, layout.rank, layout.dtype) == ("released", 4, "F32")
    assert layout.parameters == sum(tensor.numel() for tensor in state.values())
    assert "released DCM bundle with a detail expert of rank 4" in layout.describe()
    assert same(converted(bundle, "diffusers"), state)
    assert same(converted(bundle, "comfy"), find_family(family_of(name)).keymap.state_to_comfy(state))


_14B = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40}
_IMAGE = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}


@pytest.mark.parametrize(
    ("name", "sizes", "variant"),
    [
        (
            "wan t2v",
            {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30},
            "Wan 2.1 T2V 1.3B",
        ),
        ("wan t2v", _14B, "Wan 2.1 T2V 14B (or one expert of Wan 2.2 A14B)"),
        ("wan i2v", _14B | _IMAGE, "Wan 2.1 I2V 14B"),
        ("wan 2.2 i2v", _14B, "Wan 2.2 I2V A14B (one expert)"),
        (
            "wan 2.2 5b",
            {"num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336, "num_layers": 30},
            "Wan 2.2 5B",
        ),
        (
            "hunyuan_video t2v",
            {"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 20, "num_single_layers": 40},
            "HunyuanVideo T2V 13B",
        ),
        (
            "hunyuan_video i2v",
            {"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 20, "num_single_layers": 40},
            "HunyuanVideo I2V 13B",
        ),
        (
            "cogvideox t2v",
            {"num_attention_heads": 30, "attention_head_dim": 64, "num_layers": 30},
            "CogVideoX 1.0 T2V 2B",
        ),
        (
            "cogvideox t2v",
            {"num_attention_heads": 48, "attention_head_dim": 64, "num_layers": 42},
            "CogVideoX 1.0 T2V 5B",
        ),
    ],
)
def test_the_published_sizes_are_told_apart(name, sizes, variant):
    with torch.device("meta"):
        state = network(name, **sizes).state_dict()
    theirs = infos(state)
    file = with_header(theirs)
    ours = with_header({key: recipe.info(theirs) for key, recipe in file.recipes("comfy").items()})
    assert file.layout.variant == ours.layout.variant == variant
    # The only size that has noise levels of its own.
    assert ours.layout.family.name == ("cogvideox_2b" if variant.endswith("2B") else family_of(name))


def test_fp8_files_are_used_in_comfyui_as_they_are():
    comfy = converted(random_state("hunyuan_video t2v"), "comfy")
    fp8 = {key: tensor.to(torch.float8_e4m3fn) if tensor.ndim > 1 else tensor for key, tensor in comfy.items()}
    layout = opened(fp8).layout
    assert (layout.dtype, layout.scaled) == ("F8_E4M3", False)
    assert same(converted(converted(fp8, "diffusers"), "comfy"), fp8)
    old = {
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "img_in.proj.scale_weight": torch.ones(()),
    }
    new = {
        "img_in.proj.comfy_quant": torch.zeros(3, dtype=torch.uint8),
        "img_in.proj.weight_scale": torch.ones(()),
    }
    for scales in (old, new):
        scaled = {f"model.diffusion_model.{key}": tensor for key, tensor in (fp8 | scales).items()}
        layout = opened(scaled).layout
        assert layout.scaled and layout.describe().endswith("scaled F8_E4M3, 0.0M parameters")
        assert layout.parameters == sum(tensor.numel() for tensor in comfy.values())
        assert converted(scaled, "comfy").keys() == scales.keys() | fp8.keys()
        with pytest.raises(LayoutError, match="quantised.*convert the bf16"):
            opened(scaled).recipes("diffusers")


@pytest.mark.parametrize("name", ["wan t2v", "hunyuan_video t2v"])
def test_a_whole_block_that_is_missing_is_noticed(name):
    """As without one file of a sharded model."""
    state = converted(random_state(name), "comfy")
    block = {"wan t2v": "blocks.1.", "hunyuan_video t2v": "single_blocks.1."}[name]
    cut = {key: tensor for key, tensor in state.items() if not key.startswith(block)}
    with pytest.raises(LayoutError, match=rf"{len(state) - len(cut)} tensors are missing \({block}"):
        opened(cut).recipes("diffusers")


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("wan t2v", ["blocks.1.ffn.net.0.proj.bias"]),
        ("wan i2v", ["blocks.2.attn2.add_k_proj.weight"]),
        ("hunyuan_video t2v", ["proj_out.weight", "proj_out.bias"]),
        ("hunyuan_video t2v", ["time_text_embed.guidance_embedder.linear_1.weight"]),
        ("cogvideox t2v", ["transformer_blocks.1.norm2.linear.weight"]),
    ],
)
def test_a_part_of_a_backbone_is_refused(name, lost):
    state = random_state(name)
    table, comfy = find_family(family_of(name)).keymap, converted(state, "comfy")
    for key in lost:
        del state[key], comfy[table.to_comfy(key)]
    for file, to in ((state, "comfy"), (state, "diffusers"), (comfy, "diffusers")):
        with pytest.raises(LayoutError, match="missing.*sharded") as caught:
            opened(file).recipes(to)
        assert table.to_comfy(lost[0]) in str(caught.value)


@pytest.mark.parametrize(
    ("count", "text"), [(1_418_996_800, "1.42B"), (100_000_000, "0.10B"), (1_400_000, "1.4M"), (60_000, "0.1M")]
)
def test_sizes_of_small_networks_are_told_too(count, text):
    assert count_text(count) == text


def test_a_tensor_that_fits_no_row_is_an_error_with_the_nearest():
    state = random_state("wan t2v")
    state["blocks.0.attn1.to_z.weight"] = torch.zeros(1)
    with pytest.raises(LayoutError, match=r"wan backbone.*'blocks\.0\.attn1\.to_z\.weight'.*nearest row"):
        opened(state)
    # ComfyUI knows variants of its own (VACE and others), whose files it may have whole.
    comfy = converted(random_state("wan t2v"), "comfy") | {"patch_embedding_pose.weight": torch.zeros(1)}
    comfy |= {"patch_embedding_pose.bias": torch.zeros(1)}
    assert "SCAIL" in opened(comfy).layout.variant
    assert same(converted(comfy, "comfy"), comfy)
    with pytest.raises(LayoutError, match="this is Wan SCAIL, whose names in diffusers DCM does not know"):
        opened(comfy).recipes("diffusers")


def test_parts_of_one_tensor_must_agree_in_dtype():
    state = random_state("hunyuan_video t2v")
    key = "transformer_blocks.0.attn.to_k.weight"
    with pytest.raises(LayoutError, match=f"differ in dtype.*{key}.*BF16"):
        opened(state | {key: state[key].bfloat16()})


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA or an expert file.*DCM Load Expert"),
        (["lora_unet_blocks_0_self_attn_q.lora_down.weight"], "a LoRA.*LoraLoaderModelOnly"),
        (["encoder.conv1.weight", "decoder.conv1.weight", "decoder.middle.0.residual.0.gamma"], "a VAE"),
        (["decoder.conv_in.conv.weight", "encoder.conv_in.conv.weight"], "a VAE"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "a T5 text encoder"),
        (["blocks.0.attn.q.weight", "token_embedding.weight", "norm.weight"], "a T5 text encoder.*Load CLIP"),
        (["some.weight"], "its tensors are some.weight. Choose a file of models/diffusion_models"),
        (["lycoris_blocks_0_self_attn_q.lokr_w1"], "a LoKr.*LoraLoaderModelOnly"),
        (["vace_blocks.0.after_proj.weight", "vace_patch_embedding.weight"], "a VACE module.*whole VACE model"),
        (["method/ema/condition_embedder.time_proj.weight"], "a training checkpoint.*exported"),
        (["a.condition_embedder.time_proj.weight", "method/a.condition_embedder.time_proj.weight"], "a training check"),
        (["_fsdp_wrapped_module._flat_param"], "one part of an FSDP checkpoint"),
        (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a CLIP model"),
        (["double_blocks.0.img_attn.qkv.weight", "img_in.weight"], "Flux"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion"),
        ([], "holds no tensor"),
    ],
)
def test_other_files_are_named_with_a_remedy(names, says):
    with pytest.raises(LayoutError, match=f"no CogVideoX, HunyuanVideo or Wan backbone: .*{says}"):
        with_header({name: TensorInfo("F32", (1, 1)) for name in names})


def test_an_all_in_one_checkpoint_is_for_load_checkpoint():
    comfy = converted(random_state("wan t2v"), "comfy")
    for prefix in ("model.diffusion_model.", ""):
        file = {prefix + key: tensor for key, tensor in comfy.items()} | {"vae.decoder.conv1.weight": torch.ones(1)}
        with pytest.raises(LayoutError, match="all-in-one.*Load Checkpoint"):
            opened(file)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", "module.", "any.thing."])
@pytest.mark.parametrize("name", ["wan t2v", "hunyuan_video t2v", "cogvideox t2v"])
def test_any_prefix_and_the_names_of_wrappers_are_taken(name, prefix):
    comfy = converted(random_state(name), "comfy")
    assert same(converted({prefix + key: tensor for key, tensor in comfy.items()}, "comfy"), comfy)
    wrapped = {
        f"{prefix}_orig_mod.{key.replace('blocks.1.', 'blocks.1._fsdp_wrapped_module._orig_mod.')}": tensor
        for key, tensor in comfy.items()
    }
    assert any("blocks.1._fsdp" in key for key in wrapped)
    assert same(converted(wrapped, "comfy"), comfy)
    state = random_state(name)
    wrapped = {key.replace("attn", "_checkpoint_wrapped_module.attn", 1): tensor for key, tensor in state.items()}
    assert same(converted(wrapped, "comfy"), comfy)


def test_two_names_that_are_one_without_wrappers_are_refused():
    comfy = converted(random_state("wan t2v"), "comfy")
    with pytest.raises(LayoutError, match="one tensor twice"):
        opened(comfy | {"_orig_mod.head.head.bias": comfy["head.head.bias"]})


def test_tencents_own_names_are_comfyuis():
    comfy = converted(random_state("hunyuan_video t2v"), "comfy")
    theirs = {}
    for key, tensor in comfy.items():
        for piece, meant in (
            ("txt_in.c_embedder.linear_1.", "txt_in.c_embedder.in_layer."),
            ("txt_in.c_embedder.linear_2.", "txt_in.c_embedder.out_layer."),
            ("_mod.linear.", "_mod.lin."),
            ("_attn_qkv.", "_attn.qkv."),
            ("_attn_proj.", "_attn.proj."),
            ("_attn_q_norm.weight", "_attn.norm.query_norm.scale"),
            ("_attn_k_norm.weight", "_attn.norm.key_norm.scale"),
            (".q_norm.weight", ".norm.query_norm.scale"),
            (".k_norm.weight", ".norm.key_norm.scale"),
            ("mlp.fc1.", "mlp.0."),
            ("mlp.fc2.", "mlp.2."),
            (".modulation.linear.", ".modulation.lin."),
            ("_in.mlp.0.", "_in.in_layer."),
            ("_in.mlp.2.", "_in.out_layer."),
        ):
            key = key.replace(meant, piece)
        theirs[key] = tensor
    assert len(theirs.keys() - comfy.keys()) > 40
    layout = opened(theirs).layout
    assert layout.relative is None and layout.variant == opened(comfy).layout.variant
    assert same(converted(theirs, "diffusers"), converted(comfy, "diffusers"))


def test_a_tensor_that_is_missing_is_noticed_where_nothing_is_converted():
    comfy = converted(random_state("wan t2v"), "comfy")
    del comfy["blocks.2.ffn.0.bias"]
    with pytest.raises(LayoutError, match=r"1 tensors are missing \(blocks.2.ffn.0.bias.*Download it again"):
        opened(comfy).recipes("comfy")
