"""The CogVideoX table against diffusers' real class: 2B, 5B image-to-video, and 1.5 with its second embedding."""

import pytest
import torch
from harness.diffusers_models import with_header

from dcm_core.families.presets import find_family
from dcm_core.files.format import TensorInfo

COG = find_family("cogvideox").keymap
VARIANTS = {
    "T2V": {},
    "I2V": {
        "in_channels": 32,
        "use_learned_positional_embeddings": True,
        "use_rotary_positional_embeddings": True,
    },
    "1.5 I2V": {"in_channels": 32, "patch_size_t": 2, "ofs_embed_dim": 16, "patch_bias": False}
    | {"use_rotary_positional_embeddings": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_embed_dim=8, time_embed_dim=16, num_layers=12,
        sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=5, **VARIANTS[request.param],
    )  # fmt: skip


def infos(state):
    return {name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in state.items()}


def test_every_weight_of_the_real_model_goes_there_and_back(model):
    state = model.state_dict()
    comfy = COG.state_to_comfy(state)
    assert len(comfy) == len(state)
    back = COG.state_to_diffusers(comfy)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_both_layouts_are_recognised_whole(model):
    state = model.state_dict()
    channels, version = model.config.in_channels, "1.5" if model.config.patch_size_t else "1.0"
    variant = f"CogVideoX {version} {'T2V' if channels == 16 else 'I2V'} of width 32 with 12 blocks"
    for kind, tensors in (("diffusers", state), ("comfy", COG.state_to_comfy(state))):
        file = with_header(infos(tensors))
        layout = file.layout
        assert (layout.family.name, layout.kind, layout.variant) == ("cogvideox", kind, variant)
        assert len(file.recipes("comfy")) == len(state)
    for lost in ("time_embedding.linear_1.weight", "transformer_blocks.11.ff.net.2.bias"):
        cut = {name: tensor for name, tensor in state.items() if name != lost}
        with pytest.raises(ValueError, match=COG.to_comfy(lost)):
            with_header(infos(cut)).recipes("comfy")


def test_the_names_are_the_hosts():
    expected = {
        "patch_embed.text_proj.weight": "patch_embed.text_proj.weight",
        "time_embedding.linear_2.bias": "time_embedding_linear_2.bias",
        "ofs_embedding.linear_1.weight": "ofs_embedding_linear_1.weight",
        "transformer_blocks.0.norm1.linear.weight": "blocks.0.norm1.linear.weight",
        "transformer_blocks.41.norm2.norm.bias": "blocks.41.norm2.norm.bias",
        "transformer_blocks.3.attn1.to_q.weight": "blocks.3.q.weight",
        "transformer_blocks.3.attn1.to_out.0.bias": "blocks.3.attn_out.bias",
        "transformer_blocks.3.attn1.norm_k.weight": "blocks.3.norm_k.weight",
        "transformer_blocks.3.ff.net.0.proj.weight": "blocks.3.ff_proj.weight",
        "transformer_blocks.3.ff.net.2.bias": "blocks.3.ff_out.bias",
        "norm_out.linear.weight": "norm_out.linear.weight",
        "proj_out.bias": "proj_out.bias",
    }
    for diffusers, comfy in expected.items():
        assert COG.to_comfy(diffusers) == comfy
        assert COG.to_diffusers(comfy) == diffusers


def test_what_a_detail_expert_changes(model):
    names = list(COG.state_to_comfy(model.state_dict()))
    low_rank, replaced = COG.detail_layers(names)
    assert low_rank == [f"blocks.{i}.{part}" for part in ("q", "k", "v", "attn_out") for i in range(12)]
    assert replaced == ["time_embedding_linear_1", "time_embedding_linear_2", "norm_out.linear", "proj_out"]
    for name in (*low_rank, *replaced):
        assert isinstance(model.get_submodule(COG.module_to_diffusers(name)), torch.nn.Linear)
    assert find_family("cogvideox_2b").keymap is COG
