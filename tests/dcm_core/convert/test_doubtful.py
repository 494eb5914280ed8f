"""Backbones that are not whole, or perhaps not: what every command says of them."""

from pathlib import Path

import pytest
import torch
from harness.diffusers_models import random_state, released, vace_state
from safetensors.torch import save_file

from dcm_core.convert.command import main
from dcm_core.families.wan import SIZES


def run(capsys, line):
    """(exit status, standard output, standard error)"""
    status = main(line.split())
    said = capsys.readouterr()
    return status, said.out, said.err


def without(state, lost):
    return {name: tensor for name, tensor in state.items() if not name.startswith(lost)}


DAMAGED = {
    "a block of the family's": lambda state: without(state, "blocks.1."),
    "a layer of the family's": lambda state: without(state, "head.head.weight"),
    "a block of its own": lambda state: without(state, "vace_blocks.3."),
    "all blocks of its own": lambda state: without(state, "vace_blocks."),
    "a matrix of zeros": lambda state: state | {"vace_blocks.2.ffn.0.weight": torch.zeros(20, 8)},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_relative_is_refused_by_every_command(tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    save_file(vace_state(), "base.safetensors")
    save_file(DAMAGED[damage](vace_state()), "a.safetensors")
    assert run(capsys, "inspect base.safetensors")[0] == 0
    for line in (
        "inspect a.safetensors",
        "to-comfy a.safetensors out.safetensors",
        "export a.safetensors out.safetensors --semantic whole",
        "export a.safetensors out.safetensors --semantic difference --base a.safetensors",
        "export base.safetensors out.safetensors --semantic difference --base a.safetensors",
    ):
        status, _, err = run(capsys, line)
        assert status == 1 and err.count("\n") == 1 and "Download it again" in err, line
    assert not Path("out.safetensors").exists()


def test_a_doubt_about_a_backbones_size_is_said_by_every_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(released("wan t2v"), "bundle.safetensors")
    save_file(random_state("wan t2v"), "base.safetensors")
    monkeypatch.setitem(SIZES.names, (8, 4), "9B")
    status, out, _ = run(capsys, "inspect base.safetensors")
    assert status == 0 and "DOUBTFUL: this backbone is as wide as the 9B one and has 3 blocks instead of 4" in out
    for line in (
        "to-comfy base.safetensors out.safetensors",
        "to-diffusers bundle.safetensors out.safetensors --force",
        "export bundle.safetensors detail.safetensors",
    ):
        status, _, err = run(capsys, line)
        assert status == 0 and err.count("instead of 4: unless it was pruned") == 1, line
