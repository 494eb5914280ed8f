"""What DCM LoRA says of a file, and of one that is not for its MODEL."""

import pytest
import torch
from harness import tiny
from harness.loras import BOTH, LAYERS, Maker, all_of
from harness.worlds import dcm_node, world
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def this():
    return world("wan")


@pytest.fixture(scope="module")
def maker(this):
    return Maker(this.network)


def test_keys_that_do_not_act_are_named(this, maker, put):
    tensors = all_of(maker.pair)
    more = {
        "diffusion_model.blocks.0.cross_attn.k_img.diff": torch.zeros(128, 128),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 4),
        "diffusion_model.blocks.1.self_attn.k.diff": torch.zeros(128, 64),
    }
    _, info = put(this.model(), tensors | more, *BOTH)
    assert "9 of 12 keys act, not " in info and "Warning" not in info
    assert all(key in info for key in more)


def test_of_two_spellings_of_a_layer_the_one_that_does_not_act_is_named(this, maker, put):
    tensors = maker.pair(LAYERS[0]) | maker.pair(LAYERS[0], stem="lora_unet_blocks_0_self_attn_q", rank=2)
    _, info = put(this.model(), tensors, *BOTH)
    assert "4 of 6 keys act, not " in info


def test_a_lora_that_was_made_for_another_backbone_with_layers_of_the_same_names_is_said(loras):
    """Flux's are HunyuanVideo's, in size too: nothing but the metadata tells."""
    this = world("hunyuan_video")
    tensors = Maker(this.network).pair("double_blocks.0.img_attn.qkv", stem="lora_unet_double_blocks_0_img_attn_qkv")
    said = "this LoRA was made for flux1, and this MODEL is HunyuanVideo"
    for version in ("flux1", "hunyuan_video"):
        save_file(tensors, loras / f"{version}.safetensors", {"ss_base_model_version": version})
        info = dcm_node("DCMLora").execute(this.model(), f"{version}.safetensors", *BOTH)[1]
        assert "3 of 3 keys act" in info and (said in info) == (version == "flux1")


WRONG = {
    "another family": (
        lambda maker: {
            "transformer.double_blocks.0.img_attn_qkv.lora_A.weight": torch.ones(2, 8),
            "transformer.double_blocks.0.img_attn_qkv.lora_B.weight": torch.ones(8, 2),
        },
        r"no key that acts on this MODEL: its keys are transformer.double_blocks.* Choose a LoRA for Wan of this size",
    ),
    "another width": (
        lambda maker: all_of(Maker(tiny.wan(dim=256)).pair),
        r"layers of another size: \S+.weight is \[\d+, 256\] there and \[\d+, \d+\] here. Choose a LoRA for Wan",
    ),
    "another width, LoHa": (
        lambda maker: all_of(Maker(tiny.wan(dim=256)).loha),
        r"layers of another size: \S+.weight is of another shape there and \[\d+, \d+\] here",
    ),
    "the other way round": (
        lambda maker: {
            "diffusion_model.blocks.0.ffn.0.lora_A.weight": torch.ones(2, 256),
            "diffusion_model.blocks.0.ffn.0.lora_B.weight": torch.ones(128, 2),
        },
        r"blocks.0.ffn.0.weight is \[128, 256\] there and \[256, 128\] here",
    ),
    "layers that are not there": (
        lambda maker: {"diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(7)},
        r"blocks.0.self_attn.q.bias is of another shape there and \[128\] here",
    ),
    "no LoRA": (lambda maker: dict(maker.network.state_dict()), "is no LoRA. It looks like a whole backbone"),
    "NaN": (
        lambda maker: (
            maker.pair(LAYERS[0]) | {"diffusion_model.blocks.0.self_attn.k.diff": torch.full((128, 128), torch.nan)}
        ),
        "NaN or Inf in diffusion_model.blocks.0.self_attn.k.diff: download it again",
    ),
    "a kind of its own": (
        lambda maker: {"diffusion_model.blocks.0.self_attn.q.oft_blocks": torch.zeros(32, 4, 4)},
        r"not known here \(oft\): load it with LoraLoaderModelOnly",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_cannot_act(wrong, this, maker, put):
    tensors, said = WRONG[wrong]
    for strengths in (BOTH, (1.0, 1.0)):
        with pytest.raises(ValueError, match=rf"style.safetensors .*{said}"):
            put(this.model(), tensors(maker), *strengths)


@pytest.mark.parametrize("strength", [11.0, -50.0, float("nan"), float("inf")])
def test_a_strength_outside_reason(strength, this, maker, put):
    with pytest.raises(ValueError, match="strength_detail is .*: use -10 to 10; at 1 a LoRA acts as it was trained"):
        put(this.model(), all_of(maker.pair), 1.0, strength)


def test_a_name_that_is_not_there(this, put):
    with pytest.raises(FileNotFoundError, match="no file 'lost.safetensors' in models/loras"):
        dcm_node("DCMLora").execute(this.model(), "lost.safetensors", 1.0, 1.0)


def test_a_file_that_was_written_again_is_read_again(this, maker, put):
    node = dcm_node("DCMLora")
    put(this.model(), maker.pair(LAYERS[0]), *BOTH)
    first = node.fingerprint_inputs("style.safetensors", strength_semantic=1.0)
    put(this.model(), all_of(maker.pair), *BOTH)
    assert node.fingerprint_inputs("style.safetensors", strength_semantic=1.0) != first
