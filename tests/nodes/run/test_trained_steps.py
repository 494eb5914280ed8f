"""Experts that were trained for one number of steps: nodes take it by themselves, and say once where a run differs."""

import logging
from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from dcm_pack.nodes.backbone.model import declare_semantic
from harness import tiny
from harness.worlds import dcm_node, empty_latent, world

import nodes


def trained(expert, steps):
    return replace(expert, metadata=replace(expert.metadata, trained_steps=steps))


def trained_world(steps, semantic_steps=None, family="wan"):
    this = world(family)
    return replace(this, detail=trained(this.detail, steps), semantic=trained(this.semantic, semantic_steps or steps))


def run_of(this, model, **options):
    """(latents, info) of DCM KSampler, with the steps that it comes with."""
    texts = this.text(0), this.text(1)
    options = {"seed": 0, "steps": 0, "cfg": 1.0, **options}
    positional = [options.pop(name) for name in ("seed", "steps", "cfg")]
    output = dcm_node("DCMKSampler").execute(model, *positional, *texts, empty_latent(), **options)
    return output[0]["samples"], output[1]


def warnings_in(text):
    return text.count("Warning")


@pytest.fixture
def said(caplog):
    """The warnings that the pack logs, from now on."""
    caplog.set_level(logging.INFO, logger="DCM")
    return lambda: [
        each.getMessage() for each in caplog.records if each.name == "DCM" and each.levelno == logging.WARNING
    ]


@pytest.mark.parametrize("family", [name for name in ("wan", "cogvideox") if name in tiny.FAMILIES])
@pytest.mark.parametrize("steps", [2, 3])
def test_every_node_takes_the_number_of_steps_from_the_experts(family, steps):
    this = trained_world(steps, family=family)
    model = this.applied()
    sigmas, line, _ = dcm_node("DCMSigmas").execute(model, 0)
    assert torch.equal(sigmas, this.schedule.sigmas(steps))
    samples, text = run_of(this, model)
    assert text == line
    assert torch.equal(samples, run_of(this, model, steps=steps)[0])
    assert text == run_of(this, model, sigmas=sigmas)[1]
    for shown in (
        dcm_node("DCMApplyExperts").execute(this.model(), this.detail, this.semantic)[1],
        dcm_node("DCMGuider").execute(model, this.text(0), this.text(1))[1],
        dcm_node("DCMBake").execute(model)[2],
    ):
        assert f"{steps} steps: {line}" in shown
    semantic, detail = this.baked(model)
    assert run_of(this, semantic, low_noise_model=detail)[1].count(" step") == 2
    assert len(dcm_node("DCMSigmas").execute(semantic, 0)[0]) == steps + 1


def test_experts_for_any_number_run_in_four_steps_as_ever():
    this = world("wan")
    for model in (this.applied(), this.model()):
        assert torch.equal(run_of(this, model)[0], run_of(this, model, steps=4)[0])
        assert torch.equal(dcm_node("DCMSigmas").execute(model, 0)[0], dcm_node("DCMSigmas").execute(model, 4)[0])
    for steps in (2, 8):
        assert not warnings_in(run_of(this, this.applied(), steps=steps)[1])
    assert not warnings_in(run_of(this, this.applied(), denoise=0.8)[1])
    assert len(dcm_node("DCMSigmas").execute(this.model(), 0, preset="wan2.1 causvid 14B")[0]) == 10


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"steps": 8}, "Set steps to 4, semantic_steps to 0 and denoise to 1"),
        ({"steps": 1}, "Set steps to 4"),
        ({"semantic_steps": 1}, "semantic_steps to 0"),
        ({"denoise": 0.6}, "denoise to 1; to change a video, use start_at_step."),
        ({"sigmas": torch.tensor([1.0, 0.9, 0.5, 0.2, 0.0])}, "Connect DCM Sigmas with steps 4, semantic_steps 0"),
        ({"sigmas": torch.tensor([0.9, 0.5, 0.0])}, "denoise 1, or leave sigmas open."),
    ],
    ids=str,
)
def test_another_run_than_trained_for_is_said_once_with_its_remedy(options, remedy):
    this = trained_world(4)
    text = run_of(this, this.applied(), **options)[1]
    assert warnings_in(text) == 1, text
    assert "trained for 4 steps at 1.000 0.989 0.975 0.905, and these are other noise levels" in text
    assert remedy in text


@pytest.mark.parametrize("options", [{"start_at_step": 1}, {"end_at_step": 3}, {"steps": 4}], ids=str)
def test_parts_of_the_run_that_was_trained_for_are_no_fault(options):
    this = trained_world(4)
    assert not warnings_in(run_of(this, this.applied(), **options)[1])
    rounded = (this.schedule.sigmas(4) * 1000).round() / 1000
    assert not warnings_in(run_of(this, this.applied(), sigmas=rounded)[1])


def test_a_moved_boundary_is_what_is_to_be_set_back():
    this = trained_world(4)
    text = run_of(this, this.applied(kappa=0.9))[1]
    assert warnings_in(text) == 1 and "Set kappa of DCM Apply Experts to 0." in text
    semantic, detail = this.baked()
    assert not warnings_in(run_of(this, semantic, low_noise_model=detail)[1])
    text = run_of(this, semantic, low_noise_model=detail, boundary=0.9)[1]
    assert warnings_in(text) == 1 and "Set boundary to 0." in text


def test_stock_samplers_and_the_guider_say_it_too(said):
    this = trained_world(4)
    model, own, noise = this.applied(), this.schedule.sigmas(4), RandomNoise().get_noise(0)[0]
    guider = dcm_node("DCMGuider").execute(model, this.text(0), this.text(1))[0]
    euler = comfy.samplers.sampler_object("euler")
    for sigmas, count in ((own, 0), (own[:3], 0), (own[2:], 0), (this.schedule.sigmas(8), 1)):
        for go in (
            lambda sigmas=sigmas: this.custom_sampled(model, sigmas),
            lambda sigmas=sigmas: SamplerCustomAdvanced().sample(noise, guider, euler, sigmas, empty_latent()),
        ):
            before = len(said())
            go()
            assert len(said()) - before == count
    assert "to a sampler node that takes SIGMAS, or use DCM KSampler." in said()[-1]
    before = len(said())
    nodes.common_ksampler(model, 0, 4, 1.0, "euler", "simple", this.text(0), this.text(1), empty_latent(), denoise=0.5)
    assert len(said()) - before == 1


def test_experts_for_different_numbers_of_steps_are_named():
    this = trained_world(2, semantic_steps=4)
    model, text = dcm_node("DCMApplyExperts").execute(this.model(), this.detail, this.semantic)
    assert warnings_in(text) == 1
    assert "the semantic expert was trained for 4 steps, the detail expert for 2 steps, which is used." in text
    assert run_of(this, model)[1].startswith("SemE 1 step") and not warnings_in(run_of(this, model)[1])
    whole = this.model()
    declare_semantic(whole, this.semantic.metadata.trained_sigmas)
    assert "was trained for 4 steps" in dcm_node("DCMApplyExperts").execute(whole, this.detail)[1]
    # One for a number of steps beside one for any is no fault.
    for detail, semantic in ((this.detail, world("wan").semantic), (world("wan").detail, this.semantic)):
        model, text = dcm_node("DCMApplyExperts").execute(this.model(), detail, semantic)
        assert not warnings_in(text)
        steps = detail.metadata.trained_steps or semantic.metadata.trained_steps
        assert len(dcm_node("DCMSigmas").execute(model, 0)[0]) == steps + 1


def test_one_step_is_the_semantic_expert_alone():
    this = trained_world(1)
    model, text = dcm_node("DCMApplyExperts").execute(this.model(), None, this.semantic)
    assert not warnings_in(text)
    samples, text = run_of(this, model)
    assert text.startswith("SemE 1 step 1.000") and not warnings_in(text)
    assert torch.equal(samples, this.sampled(world("wan").applied(), steps=1))
    assert not torch.equal(samples, this.sampled(this.model(), steps=1))
    assert warnings_in(run_of(this, model, steps=4)[1]) == 1
    whole = this.model()
    declare_semantic(whole, this.semantic.metadata.trained_sigmas)
    assert run_of(this, whole)[1].startswith("semantic expert only: 1 step 1.000")
    assert not warnings_in(run_of(this, whole)[1])
    with pytest.raises(ValueError, match="There is no detail expert here"):
        dcm_node("DCMApplyExperts").execute(this.model(), None, world("wan").semantic)


def test_a_whole_semantic_backbone_tells_its_steps_to_the_nodes():
    from dcm_pack.nodes.backbone.load import trained_sigmas

    made = trained_world(2).semantic.metadata
    assert torch.equal(trained_sigmas(made.to_header()), made.schedule.sigmas(2))
    assert trained_sigmas({"dcm.expert": "semantic"}) is None
