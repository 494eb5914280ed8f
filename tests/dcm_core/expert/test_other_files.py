"""What a file is: one answer, whichever node it was given to."""

import pytest
import torch
from safetensors.torch import save_file

from dcm_core.errors import ExpertFileError
from dcm_core.expert.other_files import speed_lora_of, what_it_is, what_it_looks_like
from dcm_core.schedule.passport import KEYS, Passport, write_passport


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.0.exp_avg",
        "_fsdp_wrapped_module._flat_param",
        "blocks.0.ffn.0.hada_w1_a",
        "cond_stage_model.logit_scale",
        "vace_blocks.0.after_proj.weight",
        "decoder.up.0.block.0.conv1.weight",
        "blocks.0.ffn.gate.0.weight",
        "visual.blocks.0.attn.qkv.weight",
        "controlnet_blocks.0.weight",
        "joint_blocks.0.x_block.attn.qkv.weight",
    ],
)
def test_both_loaders_say_the_same_of_it(name):
    assert what_it_looks_like([name]) == f"it looks like {what_it_is([name], {})}"


def test_an_ordinary_lora_may_be_an_expert_where_the_header_was_not_asked():
    name = "diffusion_model.blocks.0.self_attn.q.lora_A.weight"
    assert what_it_is([name], {}).startswith("an ordinary LoRA")
    assert what_it_looks_like([name]).startswith("it looks like a LoRA or an expert file")


def lora(path, metadata=None):
    path.parent.mkdir(exist_ok=True)
    save_file({"diffusion_model.head.head.lora_down.weight": torch.zeros(2, 4)}, path, metadata)
    return path


def test_the_file_and_its_folder_tell(tmp_path):
    stamped = lora(tmp_path / "turbo.safetensors", write_passport(Passport({2: (1.0, 0.5)})))
    assert speed_lora_of(stamped).passport.sigmas == {2: (1.0, 0.5)}
    named = lora(tmp_path / "Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1" / "low_noise_model.safetensors")
    found = speed_lora_of(named)
    assert (found.title, found.passport.expert) == ("wan2.2 lightning", "low")
    assert speed_lora_of(lora(tmp_path / "cat.safetensors")) is None
    assert speed_lora_of(tmp_path / "Wan21_AccVid_T2V_14B.pt").title == "wan2.1 accvid"  # not opened


def test_files_that_say_what_cannot_be(tmp_path):
    contradicting = lora(tmp_path / "turbo.safetensors", {f"{KEYS}sigmas.4": "[1.0, 0.5]"})
    with pytest.raises(ExpertFileError, match=r"turbo\.safetensors: the passport contradicts itself"):
        speed_lora_of(contradicting)
    with pytest.raises(ExpertFileError, match="by its name"):
        speed_lora_of(lora(tmp_path / "Wan2.1_FusionX_lightx2v.safetensors"))
    (tmp_path / "page.safetensors").write_bytes(b"<!doctype html>")
    with pytest.raises(ExpertFileError, match="a web page"):
        speed_lora_of(tmp_path / "page.safetensors")
