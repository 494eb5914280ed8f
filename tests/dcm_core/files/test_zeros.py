"""Tensors that a stopped download left as zeros."""

import torch
from safetensors.torch import save_file

from dcm_core.files.stream import TensorSource
from dcm_core.files.zeros import all_zero


def test_only_what_is_zero_throughout_is_named(tmp_path):
    shape = (1200, 1200)  # 5.8 MB: more than one chunk
    tensors = {name: torch.zeros(shape) for name in ("zero", "first", "between", "last")}
    tensors["first"][0, 0] = tensors["last"][-1, -1] = 1
    tensors["between"][300, 7] = -1e-30  # in none of the three samples
    tensors |= {"ones": torch.ones(shape), "short": torch.zeros(3), "empty": torch.zeros(0)}
    save_file(tensors, tmp_path / "a.safetensors")
    with TensorSource([tmp_path / "a.safetensors"]) as source:
        assert sorted(all_zero(source, tensors)) == ["empty", "short", "zero"]
