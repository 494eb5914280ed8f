"""Files that a stopped download left with zeros: refused where that is sure, taken where a whole file may have them."""

import pytest
import torch
from harness.diffusers_models import comfy_state, vace_state
from safetensors.torch import save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.errors import LayoutError

NAMES = ["wan t2v", "hunyuan_video t2v", "cogvideox t2v"]


@pytest.mark.parametrize("name", NAMES)
def test_a_download_that_stopped_is_refused(name, tmp_path):
    state = comfy_state(name)
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


def ending_in(tail: int, path, name: str = "wan t2v") -> None:
    """Writes a backbone whose last tensor is a matrix of four rows of 4 KB, with zeros from so many bytes on."""
    state = comfy_state(name) | {"zz_own.weight": torch.ones(4, 1024)}
    save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - tail] + bytes(tail))


@pytest.mark.parametrize("tail", [8192, 10_001, 16_000])
def test_a_download_that_stopped_within_a_matrix_is_refused(tail, tmp_path):
    ending_in(tail, tmp_path / "a.safetensors")
    with pytest.raises(
        LayoutError, match="a.safetensors: from the middle of zz_own.weight to its end.*Download it again"
    ):
        BackboneFile.open(tmp_path / "a.safetensors")


@pytest.mark.parametrize("tail", [0, 4096, 8000])
def test_a_last_row_of_zeros_is_no_sign_of_damage(tail, tmp_path):
    """The weights of an output that died."""
    ending_in(tail, tmp_path / "a.safetensors")
    assert BackboneFile.open(tmp_path / "a.safetensors")


def test_zeros_at_the_end_of_a_matrix_before_others_are_no_sign_of_damage(tmp_path):
    state = comfy_state("wan t2v") | {"own.weight": torch.ones(4, 1024)}
    state["own.weight"][1:] = 0
    save_file(state, tmp_path / "a.safetensors")
    assert BackboneFile.open(tmp_path / "a.safetensors")


def test_a_relative_whose_own_matrices_were_never_written_is_refused(tmp_path):
    save_file(vace_state(), tmp_path / "whole.safetensors")
    assert BackboneFile.open(tmp_path / "whole.safetensors").layout.relative
    for own in ("vace_blocks.3.after_proj.weight", "vace_patch_embedding.weight"):
        save_file(vace_state() | {own: torch.zeros_like(vace_state()[own])}, tmp_path / "zero.safetensors")
        with pytest.raises(LayoutError, match=f"1 weights hold nothing but zeros .{own}.*Download it again"):
            BackboneFile.open(tmp_path / "zero.safetensors")


def test_scales_that_were_never_written_are_refused(tmp_path):
    state, layer = comfy_state("wan t2v"), "blocks.0.ffn.0"
    state[f"{layer}.weight"] = state[f"{layer}.weight"].to(torch.float8_e4m3fn)
    state |= {
        f"{layer}.scale_weight": torch.ones(()),
        f"{layer}.scale_input": torch.zeros(()),
        "scaled_fp8": torch.zeros(2),
    }
    save_file(state, tmp_path / "a.safetensors")
    assert BackboneFile.open(tmp_path / "a.safetensors")
    save_file(state | {f"{layer}.scale_weight": torch.zeros(())}, tmp_path / "b.safetensors")
    with pytest.raises(LayoutError, match=f"b.safetensors: 1 weights hold nothing but zeros .{layer}.scale_weight"):
        BackboneFile.open(tmp_path / "b.safetensors")
