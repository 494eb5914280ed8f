"""DCM LoRA at two strengths is the stock loader's LoRA at one of them in each expert's steps."""

from dataclasses import replace

import pytest
import torch
from harness import pairs
from harness.loras import BOTH, LAYERS, STEPS, Maker, all_of, by_two_loaders, sampled, stock
from harness.worlds import dcm_node, empty_latent, relative, world


@pytest.fixture(scope="module")
def this():
    return world("wan")


def test_at_one_strength_it_is_the_stock_loaders_patches(this, put):
    tensors = all_of(Maker(this.network).pair) | Maker(this.network).dora("head.head", Maker(this.network).loha)
    model, info = put(this.model(), tensors, 0.7, 0.7)
    assert "strength 0.7 in all steps" in info
    assert torch.equal(sampled(this, model), sampled(this, stock(this.model(), tensors, 0.7)))
    assert not model.get_additional_models() and not model.wrappers, "nothing is beside the network"


def test_at_strength_0_nothing_runs(this, put, loras, monkeypatch):
    from dcm_pack.nodes.experts import lora_terms

    tensors, plain = all_of(Maker(this.network).loha), this.model()
    same, info = put(plain, tensors, 0.0, 0.0)
    assert same is plain and info == "style.safetensors: both strengths are 0, so nothing is changed"
    (loras / "broken.safetensors").write_bytes(b"no LoRA")  # which is not read for that
    assert dcm_node("DCMLora").execute(plain, "broken.safetensors", 0.0, 0.0)[0] is plain
    calls = []
    patched = lora_terms.patched
    monkeypatch.setattr(lora_terms, "patched", lambda *args: calls.append(1) or patched(*args))
    detail_only, _ = put(plain, tensors, 0.0, 0.8)
    high = torch.tensor([1.0, 0.99, 0.98])
    assert torch.equal(this.custom_sampled(detail_only, high), this.custom_sampled(plain, high)) and not calls
    low = torch.tensor([0.9, 0.5, 0.0])
    expected = this.custom_sampled(stock(plain, tensors, 0.8), low)
    assert relative(this.custom_sampled(detail_only, low), expected) <= 1e-4 and calls


def test_before_or_after_the_experts(this, put):
    """And both of them see each other's layers act."""
    tensors = all_of(Maker(this.network).pair, (*LAYERS, "blocks.1.self_attn.v"))
    before = this.applied(put(this.model(), tensors, *BOTH)[0])
    after, info = put(this.applied(), tensors, *BOTH)
    expected = by_two_loaders(this, tensors, this.applied)
    for model in (before, after):
        assert relative(sampled(this, model), expected) <= 1e-4
    assert relative(sampled(this, this.applied()), expected) >= 1e-2
    assert "strength 1 above sigma 0.9765, 0.4 from there down" in info and "Warning" not in info
    assert all("forward" not in vars(module) for module in after.model.diffusion_model.modules())


def test_the_switch_of_experts_with_another_kappa(this, put):
    tensors = all_of(Maker(this.network).pair)
    model = this.applied(put(this.model(), tensors, 0.0, 1.0)[0], kappa=0.5)
    low = torch.tensor([0.9, 0.6])
    assert torch.equal(this.custom_sampled(model, low), this.custom_sampled(this.applied(kappa=0.5), low))


def test_dora_over_a_semantic_expert_is_said(this, put):
    maker = Maker(this.network)
    tensors, said = all_of(lambda layer: maker.dora(layer, maker.pair)), "put DCM LoRA before DCM Apply Experts"
    assert said in put(this.applied(), tensors, 1.0, 1.0)[1]
    assert said not in put(this.model(), tensors, 1.0, 1.0)[1]
    assert said not in put(this.applied(), all_of(maker.pair), 1.0, 1.0)[1]


def test_with_two_strengths_it_acts_last_and_says_what_it_then_looks_at(this, put, caplog):
    """A DoRA measures weights: nodes behind it change them, which it would not see at one strength."""
    maker, said = Maker(this.network), "measures or replaces weights, with different strengths after all others"
    dora, plain = all_of(lambda layer: maker.dora(layer, maker.pair)), all_of(maker.pair)

    def info(model):
        texts = this.text(0), this.text(1)
        return dcm_node("DCMKSampler").execute(model, 0, 4, 1.0, *texts, empty_latent())[1]

    before = put(this.model(), dora, *BOTH, "dora.safetensors")[0]
    assert said in info(stock(before, plain, 1.0)) and said in info(this.applied(before))
    assert said not in info(put(stock(this.model(), plain, 1.0), dora, *BOTH, "dora.safetensors")[0])
    assert said not in info(stock(put(this.model(), dora, 1.0, 1.0, "dora.safetensors")[0], plain, 1.0))
    assert said not in info(stock(put(this.model(), plain, *BOTH)[0], plain, 1.0))
    caplog.clear()
    sampled(this, stock(before, plain, 1.0))
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize(("strengths", "is_said"), [((0.3, 1.0), True), ((0.3, 0.3), True), ((0.0, 1.0), False)])
def test_a_new_weight_has_no_strength(this, put, strengths, is_said):
    tensors = {"diffusion_model.time_embedding.0.set_weight": Maker(this.network).random(128, 256)}
    info = put(this.model(), tensors, *strengths)[1]
    assert ("time_embedding.0.weight: new weights, which ComfyUI puts in whole" in info) == is_said


def test_each_model_of_a_pair_takes_its_side(this, put):
    tensors, (high, low) = all_of(Maker(this.network).pair), pairs.pair()
    text, latent = (this.text(0), this.text(1)), empty_latent()
    both = [put(model, tensors, *BOTH) for model in (high, low)]
    assert "0.4 from there down; DCM KSampler and DCM Guider give each MODEL of a pair its side's" in both[0][1]
    models = [model for model, _ in both]
    run = dcm_node("DCMKSampler").execute(models[0], 0, 4, 1.0, *text, latent, low_noise_model=models[1])
    expected = pairs.stock(
        *(stock(model, tensors, strength) for model, strength in zip((high, low), BOTH, strict=True))
    )
    assert relative(run[0]["samples"], expected) <= 1e-4
    assert relative(pairs.stock(high, low), expected) >= 1e-2


def test_a_pairs_model_with_its_expert_alone(this, put):
    alone = replace(this.detail, metadata=replace(this.detail.metadata, pair=True))
    model, info = put(
        dcm_node("DCMApplyExperts").execute(this.model(), alone)[0], all_of(Maker(this.network).pair), *BOTH
    )
    assert "strength 0.4, for this MODEL takes the detail steps only" in info
    high = torch.tensor([1.0, 0.99])
    expected = dcm_node("DCMApplyExperts").execute(stock(this.model(), all_of(Maker(this.network).pair), 0.4), alone)[0]
    assert relative(this.custom_sampled(model, high), this.custom_sampled(expected, high)) <= 1e-4


def test_several_in_a_row(this, put):
    """On the same layers, a DoRA among them, and one of the stock loader's."""
    maker = Maker(this.network, strength=0.3)
    first, third = all_of(maker.pair), all_of(maker.lokr, LAYERS[:1])
    second = all_of(lambda layer: maker.dora(layer, maker.pair), LAYERS[1:])
    model, _ = put(stock(this.model(), third, 0.5), first, *BOTH, "first.safetensors")
    model, info = put(model, second, -0.5, 1.0, "second.safetensors")
    expected = [
        stock(stock(stock(this.model(), third, 0.5), first, strength), second, other)
        for strength, other in zip(BOTH, (-0.5, 1.0), strict=True)
    ]
    assert "; 2 layers shared with first.safetensors (blocks.1.ffn.0, time_embedding.0)" in info
    assert relative(sampled(this, model), this.in_two_runs(*expected, steps=STEPS)) <= 1e-4
    _, info = put(model, third, *BOTH)
    assert "1 layer shared with first.safetensors (blocks.0.self_attn.q)" in info
    assert "1 layer shared with LoRAs of other nodes" in info and "second" not in info


def test_baked_it_is_in_the_weights(this, put):
    tensors = all_of(Maker(this.network).pair) | {
        "diffusion_model.blocks.0.modulation.diff": 0.3 * Maker(this.network).random(1, 6, 128)
    }
    model, _ = put(this.applied(), tensors, *BOTH)
    semantic, detail = this.baked(model)
    assert not semantic.get_additional_models() and not detail.get_additional_models()
    expected = sampled(this, model)
    assert relative(this.in_two_runs(semantic, detail, steps=STEPS), expected) <= 1e-4
    assert relative(this.in_two_runs(*this.baked(), steps=STEPS), expected) >= 1e-2
