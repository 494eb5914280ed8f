"""Both stages of the real trainer on a tiny network of each adapter, and the experts that come out."""

from dataclasses import replace

import pytest
import torch
from harness.tiny_backbones import BACKBONES, Noise
from safetensors.torch import load_file, save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.expert.file import load_expert
from dcm_core.expert.layers import Difference
from training import trainer
from training.config import Config, build

ADVERSARY = {"alpha": 4.0, "feature_stride": 1, "discriminator": {"lr": 1e-3, "width": 32}}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A trainer of a stage over a tiny network whose weights lie in a ComfyUI file: ``stage(name, method)``."""

    def build_one(name: str, method: str, mode: str = "full", rank: int | str = 2) -> trainer.Trainer:
        tiny, weights = BACKBONES[name], tmp_path / "backbone.safetensors"
        if not weights.exists():
            save_file(tiny.backbone().comfy_state(tiny.network()), weights)
        monkeypatch.setattr(trainer, "build_training_data", lambda config: Noise(tiny))
        options = {"guidance": 2.0, "mode": mode} | ({"embedded_guidance": 6.1} if "guidance" in tiny.told else {})
        if method == "detail":
            options |= ADVERSARY | {"rank": rank, "semantic": str(tmp_path / "semantic" / "semantic.safetensors")}
        else:
            options |= {"tc_lag": 1} | ({"rank": 2, "alpha": 4.0} if mode == "adapter" else {})
        values = {
            "output": str(tmp_path),
            "device": "cpu",
            "backbone": tiny.config(weights=str(weights)).model_dump(),
            "stage": method,
            "stages": {method: {"method": method, "iterations": 2, "optimizer": {"lr": 0.01}, "options": options}},
        }
        return trainer.build_trainer(build(Config, values))

    return build_one


@pytest.mark.parametrize(
    ("name", "mode", "rank"),
    [
        *((name, "full", 2) for name in BACKBONES),
        *((name, "adapter", 2) for name in ("wan i2v", "hunyuan_video", "cogvideox 5b")),
        *((name, "full", "whole") for name in ("wan i2v", "hunyuan_video", "cogvideox 5b")),
    ],
)
def test_both_stages_train_and_their_experts_give_the_students_velocity(name, mode, rank, stage, tmp_path):
    tiny = BACKBONES[name]
    x, timestep = tiny.noise(), torch.tensor([990.0, 500.0])
    backbone = tiny.backbone()
    told = replace(tiny.conditions(), guidance=None).told(6.1 if "guidance" in tiny.told else None)
    for method in ("semantic", "detail"):
        trained = stage(name, method, mode, rank)
        if method == "semantic":
            network = backbone.load(tmp_path / "backbone.safetensors")
        trained.run()
        expert = load_expert(tmp_path / method / f"{method}.safetensors")
        with torch.no_grad():
            before, wanted = network(x, timestep, told)[0], trained.method.student(x, timestep, told)[0]
        # The file is for this very backbone: the semantic expert over it, the detail expert over both.
        save_file(backbone.comfy_state(network), tmp_path / "below.safetensors")
        with BackboneFile.open(tmp_path / "below.safetensors") as file:
            report = file.check_fit(expert)
        assert not report.missing and not report.warnings
        backbone.apply(network, expert)
        with torch.no_grad():
            found = network(x, timestep, told)[0]
        assert torch.allclose(found, wanted, atol=1e-4), (found - wanted).abs().max()
        assert not torch.allclose(before, wanted, atol=1e-2)  # the stage has changed something to compare


def test_a_detail_expert_changes_the_layers_that_its_family_names(stage, tmp_path):
    """HunyuanVideo's projections are one layer in ComfyUI, and the halves of its last modulation lie the other way."""
    stage("hunyuan_video", "semantic").run()
    stage("hunyuan_video", "detail").run()
    expert = load_expert(tmp_path / "detail" / "detail.safetensors")
    kinds = {name: type(layer).__name__ for name, layer in expert.layers.items()}
    assert kinds["txt_in.individual_token_refiner.blocks.0.self_attn.qkv"] == "FusedLowRank"
    assert kinds["double_blocks.0.img_attn.qkv"] == kinds["single_blocks.0.linear1"] == "FusedLowRank"
    assert kinds["double_blocks.0.img_attn.proj"] == "LowRank"
    assert kinds["final_layer.adaLN_modulation.1"] == kinds["guidance_in.in_layer"] == "Difference"
    assert not any(name.startswith("double_blocks.0.txt_attn") for name in kinds)


def test_a_whole_detail_expert_changes_every_linear_layer(stage, tmp_path):
    """As differences, which need no rank; a convolution, which nodes run no detail expert in, is left alone."""
    stage("hunyuan_video", "semantic").run()
    stage("hunyuan_video", "detail", rank="whole").run()
    expert = load_expert(tmp_path / "detail" / "detail.safetensors")
    state = load_file(tmp_path / "backbone.safetensors")
    linears = {name.removesuffix(".weight") for name, tensor in state.items() if tensor.ndim == 2}
    assert {type(layer) for layer in expert.layers.values()} == {Difference}
    assert expert.layers.keys() == linears and expert.metadata.rank is None and expert.metadata.complete
