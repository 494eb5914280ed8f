"""Backbones in few bits, or not all in memory, run both experts as the same weights in float32 would."""

from dataclasses import replace

import comfy.lora
import comfy.model_management
import comfy.sd
import pytest
import torch
from harness import packed
from harness.worlds import World, assert_same, relative, world

FAMILIES = ["wan", "hunyuan_video"]


def computing_in(model, dtype):
    model = model.clone()
    model.set_model_compute_dtype(dtype)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_experts_no_more_than_the_backbone(family, dtype):
    """Stored and computed in 16 bits. The bound is twice what the plain backbone loses against float32."""
    this = world(family)
    few = computing_in(this.model(dtype=dtype), dtype)
    sigmas = this.schedule.sigmas(4)
    lost = relative(this.custom_sampled(few, sigmas), this.custom_sampled(this.model(), sigmas))
    assert lost < (0.01 if family == "wan" else 0.3)  # HunyuanVideo's guidance loses most, 6000 in 16 bits
    model = this.applied(few)
    result = this.sampled(model)
    assert relative(result, this.sampled(this.applied())) < 2 * lost
    assert relative(result, this.sampled(this.applied(few, detail_strength=0.0))) > 0.2
    (side,) = model.get_additional_models()
    assert {parameter.dtype for parameter in side.model.terms.parameters()} == {dtype}


class PackedWorld(World):
    """Over the network with weights in blocks of 8 bits; `network` holds what these stand for."""

    def model(self):
        return packed.loaded(self.network)

    @classmethod
    def over(cls, this: World):
        new = cls(this.family, this.merged(), this.semantic, this.detail)
        linear = packed.linear_weights(new.network)
        state = {
            name: packed.unpack(packed.pack(tensor), torch.float32) if name in linear else tensor
            for name, tensor in this.network.state_dict().items()
        }
        new.network.load_state_dict(state)
        return new


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights(family):
    """As ComfyUI-GGUF has them. Both experts are exact there, for patches are computed in float at every use."""
    this = PackedWorld.over(world(family))
    assert 1e-4 < relative(world(family).sampled(world(family).applied()), this.sampled(this.applied())) < 0.05
    sigmas = this.schedule.sigmas(4)
    semantic, detail = this.merged(this.semantic), this.merged(this.semantic, this.detail)
    expected, alone = this.truth(sigmas, semantic, detail), this.truth(sigmas, semantic, semantic)
    model = this.applied()
    process = model.model.process_latent_in
    assert_same(process(this.sampled(model)), expected, alone, 1e-4)
    assert_same(process(this.in_two_runs(*this.baked())), expected, alone, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_baked_and_partly_loaded(family, monkeypatch):
    """With little memory, layers that stay behind are patched at every use."""
    this = world(family)
    expected = this.in_two_runs(*this.baked())
    load, lowvram = comfy.model_management.LoadedModel.model_load, []

    def load_partly(self, lowvram_model_memory=0, force_patch_weights=False):
        done = load(self, int(0.2 * self.model.model_size()), force_patch_weights)
        lowvram.append(self.model.model.lowvram_patch_counter)
        return done

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", load_partly)
    assert relative(this.in_two_runs(*this.baked()), expected) < 1e-5
    assert min(lowvram) > 0


def test_loras_before_and_after_on_the_same_layers():
    this = world("wan")
    from dcm_pack.dcm_core.expert.layers import Expert, LowRank
    from dcm_pack.dcm_core.expert.tensor_names import to_tensors
    from harness.tiny import random_expert

    loras = []
    for seed, strength in ((21, 0.3), (22, 0.4)):
        expert = random_expert(this.network, "wan", "detail", seed, strength)
        pairs = {name: layer for name, layer in expert.layers.items() if isinstance(layer, LowRank)}
        loras.append(Expert(expert.metadata, pairs))

    def with_lora(model, lora):
        return comfy.sd.load_lora_for_models(model, None, to_tensors(lora), 1.0, 0.0)[0]

    model = with_lora(this.applied(with_lora(this.model(), loras[0])), loras[1])
    sigmas = this.schedule.sigmas(4)
    semantic = this.merged(*loras, this.semantic)
    detail = this.merged(*loras, this.semantic, this.detail)
    expected, alone = this.truth(sigmas, semantic, detail), this.truth(sigmas, semantic, semantic)
    assert_same(model.model.process_latent_in(this.sampled(model)), expected, alone, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_branches_with_experts_of_their_own(family):
    """One backbone, two pairs of experts: each branch makes what it makes alone, in any order."""
    from harness.tiny import random_expert

    this = world(family)
    other = replace(
        this,
        detail=replace(random_expert(this.network, family, "detail", 31), metadata=this.detail.metadata),
        semantic=replace(this.semantic, layers=dict(list(this.semantic.layers.items())[::2])),
    )
    alone = {name: each.sampled(each.applied()) for name, each in (("one", this), ("other", other))}
    backbone = this.model()
    branches = {"one": this.applied(backbone), "other": other.applied(backbone)}
    for name in ("one", "other", "other", "one", "other", "one"):
        assert torch.equal(this.sampled(branches[name]), alone[name])
    assert relative(alone["one"], alone["other"]) > 1e-2
    halves = {name: this.sampled(branches[name], end_at_step=2) for name in branches}
    for name, half in halves.items():
        rest = this.sampled(branches[name], latent={"samples": half}, start_at_step=2, add_noise=False)
        assert relative(rest, alone[name]) < 1e-4
