"""Samplers that evaluate beside a step's noise level: each call goes to the expert of the level it is made at."""

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustom
from dcm_pack.dcm_core.sampling import with_experts
from harness.worlds import SHAPE, assert_same, empty_latent, world


@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
@pytest.mark.parametrize("sampler", ["heun", "dpm_2"])
def test_the_switch_follows_the_sigma_evaluated(family, sampler):
    this = world(family)
    sigmas = torch.tensor([1.0, 0.99, 0.9, 0.5, 0.0])
    networks = this.merged(this.semantic), this.merged(this.semantic, this.detail)
    semantic, detail = (this.velocity(network, this.text()) for network in networks)
    asked = []

    def truth(*pair):
        model = with_experts(*pair, this.schedule)

        def denoised(x, sigma, **_):
            asked.append(sigma)
            return x - sigma.reshape(-1, 1, 1, 1, 1) * model(x, sigma)

        noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 0)
        return getattr(comfy.k_diffusion.sampling, f"sample_{sampler}")(denoised, noise, sigmas, disable=True)

    expected = truth(semantic, detail)
    semantic_calls = [bool(this.schedule.is_detail(sigma)) for sigma in asked].count(False)
    assert semantic_calls == 3, "the second call of the second step is not the detail expert's"
    model, texts = this.applied(), (this.text(0), this.text(1))
    chosen = comfy.samplers.sampler_object(sampler)
    output = SamplerCustom().sample(model, True, 0, 1.0, *texts, chosen, sigmas, empty_latent())[0]["samples"]
    assert_same(model.model.process_latent_in(output), expected, truth(semantic, semantic), 1e-4)
    assert torch.equal(this.sampled(model, sampler_name=sampler, sigmas=sigmas), output)
