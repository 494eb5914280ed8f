"""Tensors that a stopped download left as zeros."""

import torch
from safetensors.torch import save_file

from dcm_core.files.stream import TensorSource
from dcm_core.files.zeros import all_zero, zero_tails


def test_only_what_is_zero_throughout_is_named(tmp_path):
    shape = (1200, 1200)  # 5.8 MB: more than one chunk
    tensors = {name: torch.zeros(shape) for name in ("zero", "first", "between", "last")}
    tensors["first"][0, 0] = tensors["last"][-1, -1] = 1
    tensors["between"][300, 7] = -1e-30  # in none of the three samples
    tensors |= {"ones": torch.ones(shape), "short": torch.zeros(3), "empty": torch.zeros(0)}
    save_file(tensors, tmp_path / "a.safetensors")
    with TensorSource([tmp_path / "a.safetensors"]) as source:
        assert sorted(all_zero(source, tensors)) == ["empty", "short", "zero"]


def test_the_zeros_at_the_end_of_each_file_are_counted(tmp_path):
    ones = torch.ones(500_000)
    tail = ones.clone()
    tail[123:] = 0
    files = {
        "whole": {"a": tail, "b": ones},
        "half": {"c": ones, "d": tail},
        "behind": {"e": tail, "f": torch.zeros(7), "g": torch.zeros(0)},
        "nothing": {"h": torch.zeros(7)},
    }
    for name, tensors in files.items():
        save_file(tensors, tmp_path / name)
    with TensorSource([tmp_path / name for name in files]) as source:
        assert zero_tails(source) == dict.fromkeys("de", 4 * (500_000 - 123))
