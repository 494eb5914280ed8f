"""CogVideoX (ComfyUI 0.20 and newer): the nodes against plain networks with merged weights, run by DDIM."""

from dataclasses import replace

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from dcm_pack.dcm_core.expert.layers import LowRank
from dcm_pack.dcm_core.families.presets import find_family, preset
from dcm_pack.nodes.backbone.model import host_class
from harness.worlds import assert_same, dcm_node, empty_latent, relative, world

import nodes

known = pytest.mark.skipif(not host_class(find_family("cogvideox")), reason="this ComfyUI has no CogVideoX")
TOLERANCE = 1e-4


@pytest.fixture
def this():
    return world("cogvideox")


def in_network_units(model, samples):
    return model.model.process_latent_in(samples)


def truth(this, sigmas, **options):
    return this.truth(sigmas, this.merged(this.semantic), this.merged(this.semantic, this.detail), **options)


@known
@pytest.mark.parametrize("steps", [2, 4, 7])
def test_equals_ddim_over_merged_weights(this, steps):
    sigmas, semantic = this.schedule.sigmas(steps), this.merged(this.semantic)
    model = this.applied()
    result = in_network_units(model, this.sampled(model, steps=steps, seed=steps))
    expected = truth(this, sigmas, seed=steps)
    assert_same(result, expected, this.truth(sigmas, semantic, semantic, seed=steps), TOLERANCE)


@known
def test_stock_custom_sampler_on_our_sigmas(this):
    model = this.applied()
    sigmas, info, _ = dcm_node("DCMSigmas").execute(model, 4).args
    assert info == "SemE 2 steps 999 879 | DetE 2 steps 759 379"
    assert torch.equal(this.custom_sampled(model, sigmas), this.sampled(model))


@known
@pytest.mark.parametrize("scheduler", ["simple", "ddim_uniform"])
def test_stock_ksampler_on_the_schedules_of_the_host(this, scheduler):
    model = this.applied()
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 6)
    texts = this.text(0), this.text(1)
    (stock,) = nodes.common_ksampler(model, 5, 6, 1.0, "euler", scheduler, *texts, empty_latent())
    expected = truth(this, sigmas, seed=5)
    assert relative(in_network_units(model, stock["samples"]), expected) <= TOLERANCE


@known
def test_a_plain_backbone_runs_as_released_too(this):
    model = this.model()
    sigmas = dcm_node("DCMSigmas").execute(model, 4)[0]
    result = in_network_units(model, this.sampled(model, sigmas=sigmas))
    assert relative(result, this.truth(sigmas, this.network, this.network)) <= TOLERANCE


@known
def test_a_run_in_two_parts_and_with_guidance_is_the_stock_run(this):
    model, sigmas = this.applied(), this.schedule.sigmas(4)
    stock = this.custom_sampled(model, sigmas, cfg=3.0)
    first = this.sampled(model, cfg=3.0, end_at_step=2)
    second = this.sampled(model, cfg=3.0, latent={"samples": first}, start_at_step=2, add_noise=False)
    assert relative(second, stock) <= TOLERANCE
    assert relative(this.sampled(model), stock) > 100 * TOLERANCE


# --- the same comparison on runs that are wrong in one thing ---------------------------------------------------------


def host_sampling_class(this, model):
    model.add_object_patch("model_sampling", this.model().model.model_sampling)


def sampling_by(kind, grid=None):
    def change(this, model):
        class Wrong(comfy.model_sampling.ModelSamplingDiscrete, kind):
            pass

        sampling = Wrong()
        sampling.set_sigmas(torch.tensor((grid or this.schedule.grid).curve.table))
        model.add_object_patch("model_sampling", sampling)

    return change


def without_positions(this, model):
    del model.object_patches["diffusion_model._get_rotary_emb"]


WRONG_MODELS = {
    "sampling class of the host": host_sampling_class,
    "epsilon instead of v": sampling_by(comfy.model_sampling.EPS),
    "noise levels of 2B": sampling_by(comfy.model_sampling.V_PREDICTION, preset("cogvideox_2b").grid),
    "positions of the host": without_positions,
}


@known
@pytest.mark.parametrize("wrong", WRONG_MODELS)
def test_a_model_that_is_wrong_in_one_thing_is_noticed(this, wrong):
    model, sigmas = this.applied(), this.schedule.sigmas(4)
    assert relative(in_network_units(model, this.custom_sampled(model, sigmas)), truth(this, sigmas)) <= TOLERANCE
    WRONG_MODELS[wrong](this, model)
    result = in_network_units(model, this.custom_sampled(model, sigmas))
    assert not relative(result, truth(this, sigmas)) <= 10 * TOLERANCE  # not a number is noticed too


def scale_of_adapters_halved(detail):
    layers = {
        name: replace(layer, alpha=layer.alpha / 2) if isinstance(layer, LowRank) else layer
        for name, layer in detail.layers.items()
    }
    return replace(detail, layers=layers)


def without(part):
    return lambda detail: replace(
        detail, layers={name: layer for name, layer in detail.layers.items() if part not in name}
    )


def switch_moved_to(index):
    def change(detail):
        schedule = preset("cogvideox").with_kappa(index)
        return replace(detail, metadata=replace(detail.metadata, schedule=schedule))

    return change


WRONG_EXPERTS = {
    "scale of the adapters halved": scale_of_adapters_halved,
    "adapters of v missing": without(".v"),
    "time embedding not replaced": without("time_embedding"),
    "last modulation not replaced": without("norm_out"),
    "output not replaced": without("proj_out"),
    "switch one step late": switch_moved_to(36),
    "switch one step early": switch_moved_to(43),
}


@known
@pytest.mark.parametrize("wrong", WRONG_EXPERTS)
def test_an_expert_that_is_wrong_in_one_thing_is_noticed(this, wrong):
    model = replace(this, detail=WRONG_EXPERTS[wrong](this.detail)).applied()
    sigmas = this.schedule.sigmas(4)
    result = in_network_units(model, this.sampled(model, sigmas=sigmas))
    assert relative(result, truth(this, sigmas)) > 100 * TOLERANCE


# --- what the nodes say and leave behind ------------------------------------------------------------------------------


@known
def test_kappa_is_typed_as_a_timestep_over_1000(this):
    model, info = dcm_node("DCMApplyExperts").execute(this.model(), this.detail, this.semantic, kappa=0.5).args
    assert "SemE above timestep 509" in info
    sigmas = dcm_node("DCMSigmas").execute(model, 4)[0]
    assert this.schedule.grid.curve.timestep(sigmas).tolist() == [999, 739, 499, 259, 0]
    with pytest.raises(ValueError, match="timestep / 1000"):
        this.applied(kappa=0.001)


@known
def test_the_network_is_left_as_it_was(this):
    model = this.model()
    network = model.model.diffusion_model
    before = dict(vars(network)), model.model.model_sampling
    applied = this.applied(model)
    this.sampled(applied)
    applied.unpatch_model()
    assert model.model.model_sampling is before[1]
    assert network.use_rotary_positional_embeddings
    plain = type(network)._get_rotary_emb(network, 4, 4, 3, "cpu")
    assert all(torch.equal(*pair) for pair in zip(network._get_rotary_emb(4, 4, 3, "cpu"), plain, strict=True))
    assert not model.object_patches
