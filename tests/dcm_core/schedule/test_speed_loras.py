"""Speed LoRAs as people have them: recognised by their metadata, else by the names that they are published under."""

from pathlib import Path

import pytest

from dcm_core.schedule.passport import Passport, write_passport
from dcm_core.schedule.speed_loras import SPEED_PRESETS, find_preset, recognise, side_of

PUBLISHED = {
    "Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH_fp16": "wan2.2 lightning",
    "Wan22_A14B_T2V_LOW_Lightning_4steps_lora_250928_rank64_fp16": "wan2.2 lightning",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise": "wan2.2 lightning",
    "Wan_2_2_I2V_A14B_HIGH_lightx2v_MoE_distill_lora_rank_64_bf16": "wan2.2 lightning",
    "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022": "wan2.2 lightning",
    "Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/high_noise_model": "wan2.2 lightning",
    "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank256_bf16": "wan2.1 lightx2v",
    "lightx2v_14B_T2V_cfg_step_distill_lora_adaptive_rank_quantile_0.15_bf16": "wan2.1 lightx2v",
    "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32": "wan2.1 lightx2v",
    "wan2.1_i2v_lora_rank64_lightx2v_4step": "wan2.1 lightx2v",
    "Wan21_CausVid_14B_T2V_lora_rank32_v1_5_no_first_block": "wan2.1 causvid 14B",
    "Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32": "wan2.1 causvid 1.3B",
    "Wan21_AccVid_I2V_480P_14B_lora_rank32_fp16": "wan2.1 accvid",
    "Wan2.1_T2V_14B_FusionX_LoRA": "wan2.1 fusionx",
    "FastWan_T2V_14B_480p_lora_rank_128_bf16": "fastwan",
    "Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16": "fastwan",
    "Wan_2_1_T2V_14B_480p_rCM_lora_average_rank_83_bf16": "wan2.1 rcm",
    "Wan2_1_self_forcing_dmd_1_3B_lora_rank_32_fp16": "wan2.1 self-forcing",
    "hyvideo_FastVideo_LoRA-fp8": "fasthunyuan",
    "hunyuan_video_accvid_5_steps_lora_rank16_fp8_e4m3fn": "hunyuan accvid",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_names_that_speed_loras_are_published_under(name):
    found = recognise({}, f"speed/{name}.safetensors")
    assert (found.title, found.why) == (PUBLISHED[name], "by its file's name")
    assert found.passport.sigmas == SPEED_PRESETS[PUBLISHED[name]].sigmas
    in_windows = recognise({}, f"{name}.safetensors".replace("/", "\\"))
    assert in_windows == found


def test_every_row_is_recognised_by_some_name():
    assert {*PUBLISHED.values()} == {*SPEED_PRESETS}


@pytest.mark.parametrize(
    "name",
    [
        "wan22_lightning_strike_vfx.safetensors",  # a LoRA of thunderstorms
        "Wan22-Lightning/cat.safetensors",
        "arcm_style_wan.safetensors",
        "Qwen-Image-Lightning-4steps-V1.0.safetensors",
        "hy1.5_t2v_480p_lightx2v_4step.safetensors",
        "",
    ],
)
def test_other_loras_stay_unknown(name):
    assert recognise({"ss_base_model": "wan"}, name) is None


def test_a_passport_of_its_own_goes_before_the_name():
    header = write_passport(Passport({2: (1.0, 0.5)}))
    found = recognise(header, "speed/wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors")
    assert found.passport.sigmas == {2: (1.0, 0.5)}
    assert found.why == "by its own metadata"
    assert found.title == "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors"
    assert recognise(write_passport(Passport({2: (1.0, 0.5)}, title="turbo"))).title == "turbo"


@pytest.mark.parametrize("key", ["modelspec.title", "ss_output_name"])
def test_a_file_under_another_name_that_has_kept_its_title(key):
    found = recognise({key: "Wan21_AccVid_T2V_14B_lora_rank32_fp16"}, "fast.safetensors")
    assert (found.title, found.why) == ("wan2.1 accvid", "by its title")


def test_a_name_that_fits_two_rows():
    with pytest.raises(ValueError, match=r"may be wan2\.1 lightx2v or wan2\.1 fusionx by its name.*stamp"):
        find_preset("Wan2.1_I2V_14B_FusionX_lightx2v.safetensors")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH_fp16.safetensors", "high"),
        ("wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors", "low"),
        ("Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/high_noise_model.safetensors", "high"),
        ("highres_flow.safetensors", ""),
        ("high_res/wan2.2_lightx2v_4steps_lora_low_noise.safetensors", "low"),
        ("Wan 2.2 high and low/Wan2.2-Lightning-4steps-lora_LOW_fp16.safetensors", "low"),
        ("wan22/high/lightning_4steps.safetensors", "high"),
        ("high noise/lightning_4steps_low_rank.safetensors", "high"),
        ("Wan2.2-Lightning-4steps_high_low_merged.safetensors", ""),
        ("wan2.1_lightx2v_low_vram.safetensors", ""),
        ("Wan22_A14B_T2V_LOW_rank64_lightning_4steps.safetensors", "low"),
        ("lightx2v_I2V_14B_HIGH_cfg_step_distill_resized.safetensors", "high"),
        ("lightx2v_I2V_HIGH_resized_rank_16.safetensors", "high"),
    ],
)
def test_the_model_of_a_pair_that_a_file_is_for(name, side):
    assert side_of(name) == side


def test_the_page_tells_every_row_and_every_key():
    page = (Path(__file__).parents[3] / "docs" / "speed_loras.md").read_text("utf-8")
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, row in SPEED_PRESETS.items():
        cells = [cell.strip() for cell in lines[name].split("|")[1:-1]]
        told = (", ".join(map(str, row.sigmas)), ", ".join(row.samplers), text(row.cfg), text(row.shift))
        assert tuple(cells[2:6]) == told and f"({row.source})" in cells[6], name
    full = Passport({4: (1.0, 0.9, 0.8, 0.5)}, "a", "b", 4, 5.0, ("euler",), 1.0, 1.0, 0.85, "high", "c")
    assert {key.replace(".4", ".<N>") for key in write_passport(full)} <= lines.keys()


def text(number):
    return "" if number is None else f"{number:g}"
