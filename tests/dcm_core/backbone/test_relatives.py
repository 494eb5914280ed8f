"""Other models over a family's network: told by their marks in files of every layout, and never called by its name."""

import pytest
import torch
from harness.diffusers_models import (
    MODELS,
    comfy_state,
    family_of,
    infos,
    opened,
    random_state,
    vace_state,
    with_header,
)

from dcm_core.errors import LayoutError
from dcm_core.families.presets import find_family
from dcm_core.files.format import TensorInfo


def widened(name: str, key: str, factor: float, dimension: int) -> dict[str, torch.Tensor]:
    """A backbone with more of a layer's inputs (dimension 1) or outputs (0)."""
    state = comfy_state(name)
    shape = list(state[key].shape)
    shape[dimension] = int(shape[dimension] * factor)
    return state | {key: torch.randn(shape)}


@pytest.mark.parametrize("name", MODELS)
def test_no_backbone_of_a_family_is_a_relative(name):
    quantised = {"scaled_fp8": torch.zeros(2)}
    for key, tensor in comfy_state(name).items():
        if key.endswith(".weight") and tensor.ndim == 2:
            for kind in ("scale_weight", "scale_input", "weight_scale", "comfy_quant", "pre_quant_scale"):
                quantised[key.removesuffix("weight") + kind] = torch.ones(())
    for state in (random_state(name), comfy_state(name), comfy_state(name) | quantised):
        assert opened(state).layout.relative is None
    renamed = {key.replace("_norm.scale", "_norm.weight"): tensor for key, tensor in comfy_state(name).items()}
    assert opened(renamed).layout.relative is None


# By what its file is told, first, and the least that a whole one has.
PARTS = {
    "Wan VACE": [
        "vace_blocks.0.before_proj.weight",
        "vace_blocks.0.before_proj.bias",
        "vace_patch_embedding.weight",
        "vace_patch_embedding.bias",
    ],
    "Wan Camera": [
        "control_adapter.conv.weight",
        "control_adapter.conv.bias",
        *(f"control_adapter.residual_blocks.0.conv{conv}.{kind}" for conv in (1, 2) for kind in ("weight", "bias")),
    ],
    "Wan S2V": [
        "casual_audio_encoder.encoder.final_linear.weight",
        "audio_injector.injector.0.q.weight",
        "frame_packer.proj.weight",
        "trainable_cond_mask.weight",
        "cond_encoder.weight",
        "cond_encoder.bias",
    ],
    "Wan HuMo": [
        *(
            f"audio_proj.audio_proj_glob_{each}.layer.{kind}"
            for each in (1, 2, 3, "norm")
            for kind in ("weight", "bias")
        ),
        *(f"blocks.{number}.audio_cross_attn_wrapper.norm1_audio.weight" for number in range(3)),
    ],
    "Wan Animate": [
        "face_adapter.fuser_blocks.0.k_norm.weight",
        "motion_encoder.dec.direction.weight",
        "pose_patch_embedding.weight",
        "pose_patch_embedding.bias",
        "face_encoder.out_proj.weight",
    ],
    "Wan SCAIL 2": [
        "patch_embedding_mask.weight",
        "patch_embedding_mask.bias",
        "patch_embedding_pose.weight",
        "patch_embedding_pose.bias",
    ],
    "Wan SCAIL": ["patch_embedding_pose.weight", "patch_embedding_pose.bias"],
    "WanDancer": [
        "patch_embedding_global.weight",
        "patch_embedding_global.bias",
        "head_global.modulation",
        "head_global.head.weight",
        "head_global.head.bias",
        "img_emb_refimage.proj.0.weight",
        "music_encoder.0.norm1.weight",
        "music_injector.injector.0.q.weight",
        "music_projection.weight",
        "music_projection.bias",
    ],
    "Wan Fun Control": ["ref_conv.weight", "ref_conv.bias"],
    "a relative of Wan": ["fps_embedding.weight"],
}


@pytest.mark.parametrize("title", PARTS)
def test_relatives_on_the_same_latents_run_under_their_own_names(title):
    state = comfy_state("wan t2v") | dict.fromkeys(PARTS[title], torch.ones(1))
    file = opened(state)
    assert file.layout.variant.startswith(f"{title} of width 8 with 3 blocks")
    assert "has not been tried on" in file.layout.relative.remark
    assert file.recipes("comfy").keys() == state.keys()


@pytest.mark.parametrize("title", [title for title in PARTS if title.startswith("Wan") and title != "Wan SCAIL 2"])
def test_a_relative_without_one_of_its_parts_is_refused(title):
    for lost in PARTS[title][1:]:
        there = dict.fromkeys(set(PARTS[title]) - {lost}, torch.ones(1))
        with pytest.raises(LayoutError, match=f"1 parts of {title}.* are missing \\(.*Download it again") as caught:
            opened(comfy_state("wan t2v") | there)
        assert lost.startswith(str(caught.value).partition("(")[2].partition(")")[0].split(",")[0])


def relatives():
    """One of each family that has some."""
    fun = widened("wan t2v", "patch_embedding.weight", 3, 1)
    inpaint = widened("cogvideox t2v", "patch_embed.proj.weight", 3, 1)
    framepack = comfy_state("hunyuan_video t2v") | {"clean_x_embedder.proj.weight": torch.ones(1)}
    return {"Wan VACE": vace_state(), "Wan Fun Control": fun, "CogVideoX Inpaint": inpaint, "FramePack": framepack}


@pytest.mark.parametrize("title", relatives())
def test_of_a_relative_everything_is_asked_that_the_family_has(title):
    state = relatives()[title]
    assert opened(state).layout.variant.startswith(title)
    table = opened(state).keymap
    asked = [key for key in table.known(state) if table.missing(state.keys() - {key})]
    assert len(asked) > 60
    for key in asked:
        if key == table.recognised_by.comfy:
            continue  # without it, it is nothing that is known
        with pytest.raises(LayoutError, match="1 tensors are missing") as caught:
            opened({other: tensor for other, tensor in state.items() if other != key})
        assert key.removesuffix(".weight") in str(caught.value)


@pytest.mark.parametrize(
    "lost",
    [
        "vace_blocks.2.modulation",
        "vace_blocks.2.",
        "vace_blocks.0.",
        "vace_blocks.1.ffn.0.weight",
        "vace_blocks.4.after_proj.bias",
        "vace_blocks.",
    ],
)
def test_gaps_in_the_numbered_blocks_of_a_relative_are_found(lost):
    with pytest.raises(LayoutError, match=f"parts of Wan VACE are missing .*{lost.rstrip('.')}"):
        opened({key: tensor for key, tensor in vace_state().items() if not key.startswith(lost)})


@pytest.mark.parametrize("shape", [(8, 16, 0, 2, 2), (8,), ()])
def test_shapes_that_no_backbone_has_are_said(shape):
    with pytest.raises(LayoutError, match="looks like a wan backbone, but its layers have shapes that none has"):
        opened(comfy_state("wan t2v") | {"patch_embedding.weight": torch.ones(shape)})


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
        opened(comfy_state(name) | {sign: torch.ones(1)})


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


@pytest.mark.parametrize(
    ("name", "key", "width", "says"),
    [
        ("wan t2v", "patch_embedding.weight", 5120, "the 14B one and has 3 blocks instead of 40: unless it was pruned"),
        ("wan t2v", "patch_embedding.weight", 5119, ""),
        ("hunyuan_video t2v", "img_in.proj.weight", 3072, "the 13B one and has 2 + 3 blocks instead of 20 + 40"),
        ("cogvideox t2v", "patch_embed.proj.weight", 3072, "the 5B one and has 3 blocks instead of 42"),
    ],
)
def test_a_file_that_lacks_the_last_blocks_of_a_published_size_is_doubted(name, key, width, says):
    header = infos(comfy_state(name))
    header[key] = TensorInfo("F32", (width, *header[key].shape[1:]))
    doubt = with_header(header).layout.doubt
    assert says in doubt and bool(says) == bool(doubt)
