"""A frozen backbone in 8 or 4 bits is nearly the same one, and what is trained over it and exported is as ever."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from training.config import Config, ConfigError, build
from training.estimate.stage import need
from training.networks.narrow import BYTES, narrowed
from training.registry import build_backbone

ADAPTER = {"mode": "adapter"}
FULL = {"checkpointing": "full"}


@pytest.fixture(params=["fp8", "nf4"])
def base(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    return request.param


def gradients(method):
    """All of them, of the student's velocity, as if it had learned a little, so that no factor of its pairs is zero."""
    with torch.no_grad():
        for name, p in sorted(method.trainable.items()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))), alpha=0.02)
    batch = method.data.batch(method.draws(0))
    velocity = method.model(method.student, batch.conditions)(batch.latents, torch.tensor([0.2, 0.5, 0.7, 0.9]))
    velocity.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in method.trainable.values()])


def test_frozen_matrices_are_rounded_and_give_nearly_the_same(trainer, base):
    plain, stored = (trainer("detail", ADAPTER, compute=FULL | each).method for each in ({}, {"base": base}))
    one, other = gradients(plain), gradients(stored)
    assert {p.dtype for p in stored.trainable.values()} == {torch.float32}
    assert 1e-3 < (one - other).norm() / one.norm() < {"fp8": 0.1, "nf4": 0.3}[base]


def test_rounded_matrices_may_come_from_main_memory(trainer):
    settings = FULL | {"base": "fp8"}
    at_hand, visiting = (
        trainer("detail", ADAPTER, compute=settings | {"offload": each}).method for each in (False, True)
    )
    assert torch.equal(gradients(at_hand), gradients(visiting))


def test_rounded_matrices_are_held_in_so_many_bits_and_a_dry_run_counts_them(trainer, base):
    run = trainer("semantic", ADAPTER, compute=FULL | {"base": base})
    network = run.method.student.network
    layers = [layer for block in network.blocks for layer in narrowed(block)]
    assert len(layers) == 30  # of three blocks: twice four of attention, and two
    if base == "fp8":
        assert {layer.weight.dtype for layer in layers} == {torch.float8_e4m3fn}
    else:
        assert {layer.weight.untyped_storage().nbytes() for layer in layers} == {4}  # their values are elsewhere
    found = need(run.config, type(run.method), run.method.options, build_backbone, None, run.method.data.latent_shape)
    narrow = sum(layer.weight.numel() for layer in layers)
    others = sum(p.numel() for p in network.parameters()) - narrow
    assert found.weights == 4 * others + int(BYTES[base] * narrow)


def test_the_exported_expert_is_for_the_same_backbone(trainer, base, tmp_path):
    seen = []
    for name, compute in (("plain", {}), ("rounded", FULL | {"base": base})):
        file = tmp_path / f"{name}.safetensors"
        trainer("semantic", ADAPTER, compute=compute).method.export(file)
        with safe_open(file, "pt") as opened:
            seen.append(opened.metadata()["dcm.base_fingerprint"])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", BYTES)
def test_a_rounded_backbone_needs_checkpoints(tmp_path, name):
    with pytest.raises(ConfigError, match=f"compute.base={name} needs compute.checkpointing=full"):
        build(Config, {"output": str(tmp_path), "compute": {"base": name}})


def test_4_bits_do_not_come_and_go(tmp_path):
    with pytest.raises(ConfigError, match="compute.base=nf4 stays on the GPU: .* or use compute.base=fp8"):
        build(Config, {"output": str(tmp_path), "compute": FULL | {"base": "nf4", "offload": True}})


def test_4_bits_without_bitsandbytes_say_what_to_install_or_to_use_instead(trainer, monkeypatch):
    monkeypatch.setattr("training.networks.narrow.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes: pip install bitsandbytes, or use compute.base=fp8"):
        trainer("semantic", ADAPTER, compute=FULL | {"base": "nf4"})


def test_rounding_would_change_what_a_full_expert_or_a_whole_backbone_exports(trainer):
    for stage, options in (("semantic", {}), ("lcm", ADAPTER), ("pcm", ADAPTER)):
        with pytest.raises(ConfigError, match=f"compute.base=fp8: stages.{stage} exports weights that it would round"):
            trainer(stage, options, compute=FULL | {"base": "fp8"})
