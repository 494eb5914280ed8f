"""The nodes compute what the method says: against plain networks with merged weights, and against stock samplers."""

from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, RandomNoise, SamplerCustom, SamplerCustomAdvanced
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from harness.worlds import assert_same, dcm_node, empty_latent, merge, relative, world

import nodes

FAMILIES = ["wan", "hunyuan_video"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [2, 4, 7])
def test_equals_euler_over_merged_weights(family, steps):
    this = world(family)
    sigmas = this.schedule.sigmas(steps)
    semantic, detail = this.merged(this.semantic), this.merged(this.semantic, this.detail)
    model = this.applied()
    result = model.model.process_latent_in(this.sampled(model, steps=steps, seed=steps))
    expected = this.truth(sigmas, semantic, detail, seed=steps)
    assert_same(result, expected, this.truth(sigmas, semantic, semantic, seed=steps), 1e-4)


def test_experts_that_set_weights_exactly():
    """Files by others may hold new weights in place of differences; both experts then make the same video."""
    from dcm_pack.dcm_core.expert.layers import Difference, Replacement

    def exact(expert, state):
        layers = {
            name: Replacement(state[f"{name}.weight"] + layer.weight, state[f"{name}.bias"] + layer.bias)
            for name, layer in expert.layers.items()
            if isinstance(layer, Difference) and len(layer.shapes) == 2 and layer.weight.ndim == 2
        }
        assert layers
        return replace(expert, layers=expert.layers | layers)

    this = world("wan")
    setting = replace(
        this,
        semantic=exact(this.semantic, this.network.state_dict()),
        detail=exact(this.detail, this.merged(this.semantic).state_dict()),
    )
    result = this.sampled(setting.applied())
    assert_same(result, this.sampled(this.applied()), this.without_detail(), 1e-4)
    half = {"semantic_strength": 0.5, "detail_strength": 0.0}
    scaled, expected = (this.sampled(each.applied(**half)) for each in (setting, this))
    assert_same(scaled, expected, this.without_detail(), 1e-4)


def test_one_step_is_the_semantic_experts():
    this = world("wan")
    model = this.applied()
    result = model.model.process_latent_in(this.sampled(model, steps=1))
    semantic, detail = this.merged(this.semantic), this.merged(this.semantic, this.detail)
    sigmas = torch.tensor([1.0, 0.0])
    by_semantic, by_detail = (this.truth(sigmas, network, network) for network in (semantic, detail))
    assert_same(result, by_semantic, by_detail, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheduler", ["simple", "beta"])
@pytest.mark.parametrize("cfg", [1.0, 3.5])
def test_stock_ksampler_on_its_own_schedule(family, scheduler, cfg):
    this = world(family)
    (shifted,) = ModelSamplingSD3().patch(this.model(), 17.0)
    model = this.applied(shifted)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 6)
    texts = this.text(0), this.text(1)
    (stock,) = nodes.common_ksampler(model, 5, 6, cfg, "euler", scheduler, *texts, empty_latent())
    result = this.sampled(model, seed=5, cfg=cfg, sigmas=sigmas)
    assert torch.equal(result, stock["samples"])
    assert relative(this.without_detail(seed=5, cfg=cfg, sigmas=sigmas), result) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_custom_samplers_on_our_sigmas(family):
    this = world(family)
    model = this.applied()
    sigmas = dcm_node("DCMSigmas").execute(model, 4)[0]
    result = this.sampled(model, seed=3)
    assert torch.equal(this.custom_sampled(model, sigmas, seed=3), result)
    guider = CFGGuider().get_guider(model, this.text(0), this.text(1), 1.0)[0]
    noise, sampler = RandomNoise().get_noise(3)[0], comfy.samplers.sampler_object("euler")
    advanced = SamplerCustomAdvanced().sample(noise, guider, sampler, sigmas, empty_latent())[0]["samples"]
    assert torch.equal(advanced, result)
    assert relative(this.without_detail(seed=3), result) > 1e-2


def test_lcm_takes_the_same_noise_as_the_stock_sampler():
    this = world("wan")
    model = this.applied()
    sigmas, texts = this.schedule.sigmas(4), (this.text(0), this.text(1))
    sampler = comfy.samplers.sampler_object("lcm")
    stock = SamplerCustom().sample(model, True, 3, 1.0, *texts, sampler, sigmas, empty_latent())[0]["samples"]
    assert torch.equal(this.sampled(model, seed=3, sampler_name="lcm"), stock)
    assert relative(this.sampled(model, seed=3), stock) > 1e-2


def test_batch_indices_and_noise_mask_as_the_stock_sampler():
    this = world("wan")
    model = this.applied()
    generator = torch.Generator().manual_seed(0)
    latent = empty_latent(3) | {"batch_index": [4, 4, 1]}
    latent["samples"] = torch.randn(latent["samples"].shape, generator=generator)
    latent["noise_mask"] = (torch.rand(3, 1, 3, 8, 8, generator=generator) > 0.5).float()
    sigmas = this.schedule.sigmas(4, denoise=0.9)
    stock = this.custom_sampled(model, sigmas, seed=2, latent=latent)
    result = this.sampled(model, seed=2, latent=latent, denoise=0.9)
    assert torch.equal(result, stock)
    assert relative(result[0], result[2]) > 1e-2
    assert relative(this.without_detail(seed=2, latent=latent, denoise=0.9), result) > 1e-2
    kept = (1 - latent["noise_mask"]).expand_as(result).bool()
    assert torch.allclose(result[kept], latent["samples"][kept], atol=1e-4)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_run_in_two_parts_equals_one_run(cut):
    this = world("wan")
    model = this.applied()
    whole = this.sampled(model)
    first = this.sampled(model, end_at_step=cut)
    second = this.sampled(model, latent={"samples": first}, start_at_step=cut, add_noise=False)
    assert_same(second, whole, this.without_detail(), 1e-4)
    assert relative(first, whole) > 1e-2


def test_each_expert_may_have_its_own_cfg():
    this = world("wan")
    model = this.applied()
    sigmas = this.schedule.sigmas(4)
    first = this.custom_sampled(model, sigmas[:3], cfg=4.0)
    stock = this.custom_sampled(model, sigmas[2:], cfg=1.5, latent={"samples": first}, add_noise=False)
    result = this.sampled(model, cfg=4.0, detail_cfg=1.5)
    assert_same(result, stock, this.without_detail(cfg=4.0), 1e-4)
    assert relative(this.sampled(model, cfg=4.0), result) > 1e-2


@pytest.mark.parametrize("order", ["shift first", "experts first"])
def test_the_shift_of_the_model_moves_neither_sigmas_nor_switch(order):
    this = world("wan")
    plain = this.sampled(this.applied())
    for shift in (1.0, 5.0, 41.0):
        if order == "shift first":
            model = this.applied(ModelSamplingSD3().patch(this.model(), shift)[0])
        else:
            model = ModelSamplingSD3().patch(this.applied(), shift)[0]
        assert torch.equal(dcm_node("DCMSigmas").execute(model, 4)[0], this.schedule.sigmas(4))
        assert torch.equal(this.sampled(model), plain)
    assert relative(this.without_detail(), plain) > 1e-2


def test_strength_zero_is_the_plain_backbone():
    this = world("wan")
    none = this.sampled(this.applied(detail_strength=0.0, semantic_strength=0.0))
    assert_same(none, this.custom_sampled(this.model(), this.schedule.sigmas(4)), this.without_detail(), 1e-5)


def test_strengths_scale_each_expert():
    this = world("wan")
    semantic, detail = this.merged(), this.merged()
    semantic.load_state_dict(merge(this.network.state_dict(), this.semantic, 0.6))
    detail.load_state_dict(merge(semantic.state_dict(), this.detail, 0.4))
    model = this.applied(semantic_strength=0.6, detail_strength=0.4)
    result, sigmas = model.model.process_latent_in(this.sampled(model)), this.schedule.sigmas(4)
    assert_same(result, this.truth(sigmas, semantic, detail), this.truth(sigmas, semantic, semantic), 1e-4)
    assert relative(result, model.model.process_latent_in(this.sampled(this.applied()))) > 1e-2


def test_the_embedded_guidance_is_the_experts_unless_a_node_sets_one():
    this = world("hunyuan_video")
    plain = this.sampled(this.applied())
    carried = replace(this.detail, metadata=replace(this.detail.metadata, guidance=9.0))
    assert torch.equal(this.sampled(replace(this, detail=carried).applied()), plain), (
        "a CFG scale is told to no network"
    )
    detail = replace(this.detail, metadata=replace(this.detail.metadata, embedded_guidance=9.0))
    model, sigmas = replace(this, detail=detail).applied(), this.schedule.sigmas(4)
    result = this.sampled(model)
    assert relative(result, plain) > 1e-3

    def text(guidance):
        return [[text, options | {"guidance": guidance}] for text, options in this.text()]

    euler = comfy.samplers.sampler_object("euler")
    stock = SamplerCustom().sample(model, True, 0, 1.0, text(9.0), text(9.0), euler, sigmas, empty_latent())
    assert torch.equal(result, stock[0]["samples"])
    own = dcm_node("DCMKSampler").execute(model, 0, 4, 1.0, text(6.0), text(6.0), empty_latent())
    assert torch.equal(own[0]["samples"], plain)


def test_kappa_moves_the_switch():
    this = world("wan")
    text = this.applied(kappa=0.9)
    sigmas = dcm_node("DCMSigmas").execute(text, 4)[0]
    index = this.schedule.grid.nearest(0.9)
    assert torch.equal(sigmas, this.schedule.with_kappa(index).sigmas(4))
    assert relative(this.sampled(text), this.sampled(this.applied())) > 1e-2
