"""What is said about a stock sampler that runs with experts, beside who takes which steps."""

import logging
from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_flux import FluxDisableGuidance
from harness.worlds import dcm_node, empty_latent, world


@pytest.fixture
def said(caplog):
    """What the pack logs, from now on."""
    caplog.set_level(logging.INFO, logger="DCM")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "DCM"]


def advanced(guider, sigmas):
    noise, euler = RandomNoise().get_noise(0)[0], comfy.samplers.sampler_object("euler")
    return SamplerCustomAdvanced().sample(noise, guider, euler, sigmas, empty_latent())[0]["samples"]


def trained_under(this, guidance):
    """The world of experts whose network was told this guidance in training."""
    experts = (
        replace(expert, metadata=replace(expert.metadata, guidance=1.0, embedded_guidance=guidance))
        for expert in (this.semantic, this.detail)
    )
    return replace(this, **dict(zip(("semantic", "detail"), experts, strict=True)))


def test_a_stock_sampler_that_tells_the_network_another_guidance_than_it_was_trained_under(said):
    """DCM's own samplers set it; a stock one leaves ComfyUI's 6 where the CONDITIONING says nothing."""
    this = trained_under(world("hunyuan_video"), 2.0)
    model = this.applied()
    this.custom_sampled(model, this.schedule.sigmas(4))
    assert any("embedded guidance of 2, but the network is told 6 here: put FluxGuidance" in line for line in said())
    before = len(said())
    this.sampled(model)
    same = trained_under(this, 6.0)
    same.custom_sampled(same.applied(), this.schedule.sigmas(4))
    assert not [line for line in said()[before:] if "embedded guidance" in line]


def test_the_embedded_guidance_of_baked_experts_in_a_stock_sampler(said):
    this = trained_under(world("hunyuan_video"), 2.0)
    semantic, detail = this.baked()
    sigmas = this.schedule.sigmas(4)
    for model in (semantic, detail):
        before = len(said())
        this.custom_sampled(model, sigmas)
        told = [line for line in said()[before:] if "trained under an embedded guidance of 2" in line]
        assert len(told) == 1 and len(said()) == before + 1, "its steps are no expert's share"
    before = len(said())
    this.sampled(semantic, low_noise_model=detail)
    for model in trained_under(this, 6.0).baked():
        this.custom_sampled(model, sigmas)
    assert not [line for line in said()[before:] if "embedded guidance" in line]


class Unguided(comfy.samplers.CFGGuider):
    """As a guider of another pack: its conditioning has a name of its own."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's signature
        return comfy.samplers.calc_cond_batch(self.inner_model, [self.conds["only"]], x, timestep, model_options)[0]


@pytest.mark.parametrize("bake", [False, True])
def test_no_guidance_at_all_breaks_no_stock_run(said, bake):
    """As FluxDisableGuidance leaves a CONDITIONING, or a guider that has none called positive."""
    this = trained_under(world("hunyuan_video"), 2.0)
    model = this.baked()[0] if bake else this.applied()
    (switched_off,) = FluxDisableGuidance.execute(this.text(0)).args
    usual, unguided = comfy.samplers.CFGGuider(model), Unguided(model)
    usual.set_conds(switched_off, this.text(1))
    unguided.inner_set_conds({"only": this.text(0)})
    before = len(said())
    for guider in (usual, unguided):
        assert torch.isfinite(advanced(guider, this.schedule.sigmas(4))).all()
    assert not [line for line in said()[before:] if "embedded guidance" in line]


def test_experts_that_were_trained_under_different_embedded_guidances():
    this = world("hunyuan_video")
    apply = dcm_node("DCMApplyExperts").execute
    other = trained_under(this, 2.0)
    shown = apply(this.model(), other.detail, this.semantic)[1]
    assert "under different embedded guidances (6 and 2)" in shown and "the detail expert's is used" in shown
    for each in (this, other):
        assert "embedded" not in apply(each.model(), each.detail, each.semantic)[1]
