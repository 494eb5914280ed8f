"""What other nodes do to the same MODEL keeps working before and after the experts."""

from dataclasses import replace

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from dcm_pack.dcm_core.expert.terms import LayerTerm
from dcm_pack.nodes.experts.check import check_experts
from harness import tiny
from harness.worlds import assert_same, dcm_node, empty_latent, relative, world
from torch._dynamo.utils import counters

ORDERS = ["before", "after"]


def in_order(this, change, order):
    """The MODEL with both experts and with what `change` makes of a MODEL, one after the other."""
    return this.applied(change(this.model())) if order == "before" else change(this.applied())


def lora(this):
    """A LoRA on the layers that the detail expert changes too: its expert form and its file's tensors."""
    from dcm_pack.dcm_core.expert.layers import Expert, LowRank
    from dcm_pack.dcm_core.expert.tensor_names import to_tensors

    expert = tiny.random_expert(this.network, this.family, "detail", seed=7)
    pairs = {name: layer for name, layer in expert.layers.items() if isinstance(layer, LowRank)}
    expert = Expert(expert.metadata, pairs)
    return expert, to_tensors(expert)


def truth(this, sigmas, *first):
    """(with both experts, with the semantic one alone), over the network with `first` merged into it."""
    semantic, detail = this.merged(*first, this.semantic), this.merged(*first, this.semantic, this.detail)
    return this.truth(sigmas, semantic, detail), this.truth(sigmas, semantic, semantic)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
def test_lora_on_the_same_layers(family, order):
    this = world(family)
    expert, tensors = lora(this)
    model = in_order(this, lambda m: comfy.sd.load_lora_for_models(m, None, tensors, 1.0, 0.0)[0], order)
    result = model.model.process_latent_in(this.sampled(model))
    expected, alone = truth(this, this.schedule.sigmas(4), expert)
    assert_same(result, expected, alone, 1e-4)
    assert relative(truth(this, this.schedule.sigmas(4))[0], expected) > 1e-2, "the LoRA does nothing"


@pytest.mark.skipif(not hasattr(comfy.sd, "load_bypass_lora_for_models"), reason="this host has no bypass loader")
@pytest.mark.parametrize("order", ORDERS)
def test_bypass_lora_on_the_same_layers(order):
    this = world("wan")
    expert, tensors = lora(this)
    model = in_order(this, lambda m: comfy.sd.load_bypass_lora_for_models(m, None, tensors, 1.0, 0.0)[0], order)
    result = model.model.process_latent_in(this.sampled(model))
    expected, alone = truth(this, this.schedule.sigmas(4), expert)
    assert_same(result, expected, alone, 1e-4)
    assert relative(truth(this, this.schedule.sigmas(4))[0], expected) > 1e-2, "the LoRA does nothing"


@pytest.mark.parametrize("order", ORDERS)
def test_shift(order):
    this = world("wan")
    model = in_order(this, lambda m: ModelSamplingSD3().patch(m, 3.0)[0], order)
    expected, alone = truth(this, this.schedule.sigmas(4))
    assert_same(model.model.process_latent_in(this.sampled(model)), expected, alone, 1e-4)


@pytest.mark.parametrize(("order", "within"), [("before", True), ("after", False)])
def test_compiled_network(order, within, monkeypatch):
    """Two graphs for all runs of one size, with the detail expert within its weights or beside their products."""
    this = world("wan")
    # The attention that a CPU gets asks for free memory in every call, which no graph can hold; GPUs get this one.
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch)
    monkeypatch.setattr(LayerTerm, "merging_is_cheaper", lambda term, rows: within)

    def compiled(model):
        model = model.clone()
        set_torch_compile_wrapper(model, backend="eager")
        return model

    def graphs():
        number = counters["stats"]["unique_graphs"]
        counters.clear()
        return number

    torch.compiler.reset()
    counters.clear()
    model = in_order(this, compiled, order)
    eager = this.applied()
    plain = this.sampled(eager)
    assert torch.equal(this.sampled(model), plain)
    assert graphs() == 2, "one for each expert"
    assert torch.equal(this.sampled(model), plain)
    for text in (2, 3):
        texts = this.text(text), this.text(text)
        result, same = (
            dcm_node("DCMKSampler").execute(each, text, 4, 1.0, *texts, empty_latent())[0] for each in (model, eager)
        )
        assert torch.equal(result["samples"], same["samples"])
    assert graphs() == 0, "neither switches nor prompts nor seeds"
    larger = {"samples": torch.zeros(1, 16, 3, 8, 16)}
    assert torch.equal(this.sampled(model, latent=larger), this.sampled(eager, latent=larger))
    assert graphs() == 2, "one for each expert at another size"
    this.sampled(model, latent=larger)
    assert graphs() == 0
    weaker, same = (this.applied(each, detail_strength=0.5) for each in (model, eager))
    assert torch.equal(this.sampled(weaker), this.sampled(same))
    assert graphs() == 1, "one for the detail expert at another strength"
    assert relative(this.sampled(same), plain) > 1e-2 < relative(this.without_detail(), plain)


@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
def test_fp8_storage(family):
    """The detail expert is exact over fp8 weights; the semantic one is rounded like any merged LoRA."""
    this = world(family)
    model = this.model(dtype=torch.float8_e4m3fn)
    assert model.model.get_dtype() == torch.float8_e4m3fn
    network = this.merged()
    network.load_state_dict(model.model.diffusion_model.state_dict())
    rounded = replace(this, network=network)
    expected = this.truth(this.schedule.sigmas(4), network, rounded.merged(this.detail))
    alone = this.truth(this.schedule.sigmas(4), network, network)
    with_detail = this.applied(model, semantic_strength=0.0)
    assert_same(model.model.process_latent_in(this.sampled(with_detail)), expected, alone, 1e-4)
    both = this.sampled(this.applied(this.model(dtype=torch.float8_e4m3fn)))
    assert relative(both, this.sampled(this.applied())) < 0.1
    assert relative(both, this.without_detail()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
def test_the_right_backbone_raises_no_doubts_in_any_storage(dtype):
    this = world("wan")
    assert check_experts(this.model(dtype=dtype), this.detail, this.semantic) == []
    other = replace(this, network=tiny.randomise(tiny.wan(), seed=9)).model()
    assert "other weights" in check_experts(other, this.detail, this.semantic)[0]


def test_scaled_fp8_checkpoint():
    """fp8 weights with a scale for each layer, as many backbones come; each host unpacks them in its own way."""
    this = world("wan")
    state = this.network.state_dict()
    linear = {name for name, module in this.network.named_modules() if isinstance(module, torch.nn.Linear)}
    stored, unpacked = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, {}
    for name, tensor in state.items():
        layer, _, key = name.rpartition(".")
        # Older hosts keep the biases in fp8 as well.
        stored[name] = unpacked[name] = tensor.to(torch.float8_e4m3fn).float() if layer in linear else tensor.clone()
        if layer in linear and key == "weight":
            scale = tensor.abs().max() / 448
            stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
            stored[f"{layer}.scale_weight"] = scale
            unpacked[name] = stored[name].float() * scale
    network = this.merged()
    network.load_state_dict(unpacked)
    sigmas = this.schedule.sigmas(4)
    expected = this.truth(sigmas, network, replace(this, network=network).merged(this.detail))
    model = this.applied(comfy.sd.load_diffusion_model_state_dict(stored), semantic_strength=0.0)
    result = model.model.process_latent_in(this.sampled(model))
    assert_same(result, expected, this.truth(sigmas, network, network), 1e-4)


@pytest.mark.parametrize("budget", [0.3, 0.7])
def test_partially_loaded_network(budget, monkeypatch):
    """On a GPU with little memory some layers stay in RAM and are patched and cast in every call."""
    this = world("wan")
    plain = this.sampled(this.applied())
    load = comfy.model_management.LoadedModel.model_load

    def load_partly(self, lowvram_model_memory=0, force_patch_weights=False):
        return load(self, int(budget * self.model.model_size()), force_patch_weights)

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", load_partly)
    model = this.applied()
    result = this.sampled(model)
    assert model.model.model_lowvram and model.model.lowvram_patch_counter > 0
    assert_same(result, plain, this.without_detail(), 1e-5)
