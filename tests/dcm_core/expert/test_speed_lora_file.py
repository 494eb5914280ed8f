"""A file's header and name tell which speed LoRA it is."""

import pytest
import torch
from safetensors.torch import save_file

from dcm_core.errors import ExpertFileError
from dcm_core.expert.speed_lora_file import speed_lora_of
from dcm_core.schedule.passport import KEYS, Passport, write_passport


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
