"""Other models over a family's network: told by their marks in files of every layout, and never called by its name."""

import pytest
import torch
from harness.diffusers_models import MODELS, family_of, opened, random_state
from safetensors.torch import save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.errors import LayoutError
from dcm_core.families.presets import find_family

NAMES = ["wan t2v", "hunyuan_video t2v", "cogvideox t2v"]


def comfy(name: str) -> dict[str, torch.Tensor]:
    return find_family(family_of(name)).keymap.state_to_comfy(random_state(name))


def widened(name: str, key: str, factor: float, dimension: int) -> dict[str, torch.Tensor]:
    """A backbone with more of a layer's inputs (dimension 1) or outputs (0)."""
    state = comfy(name)
    shape = list(state[key].shape)
    shape[dimension] = int(shape[dimension] * factor)
    return state | {key: torch.randn(shape)}


@pytest.mark.parametrize("name", MODELS)
def test_no_backbone_of_a_family_is_a_relative(name):
    quantised = {"scaled_fp8": torch.zeros(2)}
    for key, tensor in comfy(name).items():
        if key.endswith(".weight") and tensor.ndim == 2:
            for kind in ("scale_weight", "scale_input", "weight_scale", "comfy_quant", "pre_quant_scale"):
                quantised[key.removesuffix("weight") + kind] = torch.ones(())
    for state in (random_state(name), comfy(name), comfy(name) | quantised):
        assert opened(state).layout.relative is None
    renamed = {key.replace("_norm.scale", "_norm.weight"): tensor for key, tensor in comfy(name).items()}
    assert opened(renamed).layout.relative is None


@pytest.mark.parametrize(
    ("sign", "title"),
    [
        ("vace_blocks.0.before_proj.weight", "Wan VACE"),
        ("control_adapter.conv.weight", "Wan Camera"),
        ("casual_audio_encoder.encoder.final_linear.weight", "Wan S2V"),
        ("audio_proj.audio_proj_glob_1.layer.bias", "Wan HuMo"),
        ("face_adapter.fuser_blocks.0.k_norm.weight", "Wan Animate"),
        ("patch_embedding_mask.weight", "Wan SCAIL 2"),
        ("patch_embedding_pose.weight", "Wan SCAIL"),
        ("patch_embedding_global.weight", "WanDancer"),
        ("ref_conv.weight", "Wan Fun Control"),
        ("blocks.0.audio_cross_attn.q.weight", "a relative of Wan"),
        ("fps_embedding.weight", "a relative of Wan"),
    ],
)
def test_relatives_on_the_same_latents_run_under_their_own_names(sign, title):
    file = opened(comfy("wan t2v") | {sign: torch.ones(1)})
    assert file.layout.variant.startswith(f"{title} of width 8 with 3 blocks")
    assert "has not been tried on" in file.layout.relative.remark
    assert sign in file.recipes("comfy")


@pytest.mark.parametrize(
    ("name", "key", "factor", "title"),
    [
        ("wan t2v", "patch_embedding.weight", 3, "Wan Fun Control"),
        ("wan t2v", "patch_embedding.weight", 3.25, "Wan Fun Control"),
        ("wan t2v", "patch_embedding.weight", 2, "a relative of Wan of width 8 with 3 blocks (it has other input"),
        ("hunyuan_video t2v", "img_in.proj.weight", 2, "SkyReels I2V"),
        ("hunyuan_video t2v", "img_in.proj.weight", 3, "a relative of HunyuanVideo"),
        ("cogvideox t2v", "patch_embed.proj.weight", 3, "CogVideoX Inpaint"),
        ("cogvideox t2v", "patch_embed.proj.weight", 4, "a relative of CogVideoX"),
    ],
)
def test_relatives_are_told_by_the_channels_they_take(name, key, factor, title):
    state = widened(name, key, factor, 1)
    for file in (opened(state), opened(find_family(family_of(name)).keymap.state_to_diffusers(state))):
        assert file.layout.variant.startswith(title)
        assert "I2V of" not in file.layout.variant or title == "SkyReels I2V"


def test_a_wan_is_2_2_by_the_channels_it_makes():
    """Fun Control of Wan 2.1 takes as many as Wan 2.2 5B."""
    assert opened(random_state("wan 2.2 5b")).layout.variant.startswith("Wan 2.2 ")
    assert "2.2" not in opened(widened("wan t2v", "patch_embedding.weight", 3, 1)).layout.variant


@pytest.mark.parametrize(
    ("name", "sign", "title"),
    [
        ("hunyuan_video t2v", "cond_type_embedding.weight", "HunyuanVideo 1.5"),
        ("hunyuan_video t2v", "vision_in.proj.0.weight", "HunyuanVideo 1.5"),
        ("hunyuan_video t2v", "byt5_in.fc1.weight", "HunyuanImage 2.1"),
    ],
)
def test_relatives_on_other_latents_are_refused_by_name(name, sign, title):
    with pytest.raises(LayoutError, match=f"this is {title}, another model than HunyuanVideo: its latents are others"):
        opened(comfy(name) | {sign: torch.ones(1)})


@pytest.mark.parametrize(
    ("name", "key", "title"),
    [
        ("wan t2v", "head.head.weight", "a relative of Wan"),
        ("hunyuan_video t2v", "final_layer.linear.weight", "HunyuanVideo 1.5"),
        ("cogvideox t2v", "proj_out.weight", "a relative of CogVideoX"),
    ],
)
def test_other_latents_are_told_by_the_channels_of_the_last_layer(name, key, title):
    with pytest.raises(LayoutError, match=f"this is {title}.*its latents are others"):
        opened(widened(name, key, 2, 0))


@pytest.mark.parametrize(
    ("name", "sign", "says"),
    [
        ("wan t2v", "vace_blocks.0.proj_in.weight", "this is Wan VACE in diffusers layout.*made for ComfyUI"),
        ("wan t2v", "fps_embedding.weight", r"a relative of Wan \(it has fps_embedding\) in diffusers layout"),
        (
            "hunyuan_video t2v",
            "cond_type_embed.weight",
            "HunyuanVideo 1.5, another.*Take a HunyuanVideo backbone",
        ),
        ("hunyuan_video t2v", "context_embedder_2.linear_1.weight", "HunyuanImage 2.1, another model"),
        ("hunyuan_video t2v", "clean_x_embedder.proj.weight", "FramePack in diffusers layout"),
        ("cogvideox t2v", "perceiver_cross_attention.0.to_q.weight", "ConsisID in diffusers layout"),
    ],
)
def test_relatives_in_diffusers_layout_are_named(name, sign, says):
    with pytest.raises(LayoutError, match=says):
        opened(random_state(name) | {sign: torch.ones(1)})


@pytest.mark.parametrize("name", NAMES)
def test_a_download_that_stopped_is_refused(name, tmp_path):
    state = comfy(name)
    save_file(state, tmp_path / "whole.safetensors")
    assert BackboneFile.open(tmp_path / "whole.safetensors")
    bias = next(key for key, tensor in state.items() if key.endswith("bias"))
    save_file(state | {bias: torch.zeros_like(state[bias])}, tmp_path / "bias.safetensors")
    assert BackboneFile.open(tmp_path / "bias.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    half = len(whole) * 3 // 4
    (tmp_path / "half.safetensors").write_bytes(whole[:half] + bytes(len(whole) - half))
    with pytest.raises(LayoutError, match="half.safetensors: .*nothing but zeros.*Download it again"):
        BackboneFile.open(tmp_path / "half.safetensors")
