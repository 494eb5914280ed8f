"""A detail expert within the weights of a call and beside their products: in layers of every kind, with LoRAs.

Which layers are worth it is taken out of the question here: it hangs on the size of a video.
"""

from dataclasses import replace

import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from dcm_pack.dcm_core.expert import sidecar
from dcm_pack.dcm_core.expert.layers import Expert, LowRank, Replacement
from dcm_pack.dcm_core.expert.tensor_names import to_tensors
from dcm_pack.dcm_core.expert.terms import LayerTerm
from dcm_pack.nodes.backbone import host_layers
from harness import packed, tiny
from harness.worlds import World, relative, world

BESIDE, WITHIN = "beside", "within"


class Run:
    """What a MODEL makes with the detail expert in one of the ways, and how many products had it in their weight."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def __call__(self, this: World, model, way: str) -> torch.Tensor:
        self.within = 0
        own = sidecar.product

        def product(*args):
            self.within += 1
            return own(*args)

        with self.monkeypatch.context() as patched:
            patched.setattr(LayerTerm, "merging_is_cheaper", lambda term, rows: way == WITHIN)
            patched.setattr(sidecar, "product", product)
            return this.sampled(model)


@pytest.fixture
def run(monkeypatch):
    return Run(monkeypatch)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("budget", [None, 0.3])
def test_with_a_lora_before_and_after_and_layers_left_in_memory(run, order, budget, monkeypatch):
    """Layers that stay behind are cast, and patched, at every use."""
    this = world("wan")
    pairs = tiny.random_expert(this.network, "wan", "detail", seed=7).layers.items()
    lora = Expert(this.detail.metadata, {name: layer for name, layer in pairs if isinstance(layer, LowRank)})
    load = comfy.model_management.LoadedModel.model_load

    def load_partly(self, lowvram_model_memory=0, force_patch_weights=False):
        return load(self, int(budget * self.model.model_size()), force_patch_weights)

    if budget:
        monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", load_partly)

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, to_tensors(lora), 1.0, 0.0)[0]

    networks = this.merged(lora, this.semantic), this.merged(lora, this.semantic, this.detail)
    expected = this.truth(this.schedule.sigmas(4), *networks)
    for way in (BESIDE, WITHIN):
        # A MODEL for each: 0.3.64 patches some layers twice when it loads one in part that it had loaded in part.
        model = this.applied(with_lora(this.model())) if order == "before" else with_lora(this.applied())
        assert relative(model.model.process_latent_in(run(this, model, way)), expected) < 1e-5
    assert run.within == 2 * len(this.detail.layers)


def test_what_another_extension_put_on_a_layer_keeps_acting(run):
    this = world("wan")
    model = this.applied()
    layer = model.model.diffusion_model.blocks[0].self_attn.q
    calls, own = [], layer.forward
    layer.forward = lambda x: calls.append(None) or 1.5 * own(x)
    beside, within = (run(this, model, way) for way in (BESIDE, WITHIN))
    assert run.within == 2 * (len(this.detail.layers) - 1) and len(calls) == 8
    assert relative(within, beside) < 1e-5 < relative(this.sampled(this.applied()), within)


def test_another_forward_of_the_hosts_class_keeps_acting(run, monkeypatch):
    """An extension that puts its own in the place of every Linear's."""
    this, calls = world("wan"), []
    own = comfy.ops.disable_weight_init.Linear.forward

    def theirs(self, *args):
        calls.append(None)
        return own(self, *args)

    monkeypatch.setattr(comfy.ops.disable_weight_init.Linear, "forward", theirs)
    run(this, this.applied(), WITHIN)
    assert run.within == 0 and calls


def test_packed_weights_are_multiplied_by_their_own_class(run):
    this = world("wan")
    applied = this.applied(packed.loaded(this.network))
    assert torch.equal(run(this, applied, WITHIN), run(this, applied, BESIDE))


def test_a_layer_that_multiplies_in_fp8_is_left_to_the_host():
    """Its class has a product of its own; so has that of a quantised layer."""
    linear = comfy.ops.fp8_ops.Linear(4, 4)
    assert host_layers.opened(linear) is None
    assert host_layers.opened(torch.nn.Linear(4, 4)) is None
    assert host_layers.opened(comfy.ops.manual_cast.Linear(4, 4)) is not None


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_a_weight_that_was_cast_is_given_back(monkeypatch, error):
    """After the last use, and after an error: it lies in a buffer that other layers wait for."""
    layer = comfy.ops.manual_cast.Linear(4, 4, dtype=torch.bfloat16)
    torch.nn.init.ones_(layer.weight), torch.nn.init.zeros_(layer.bias)
    told = []
    if hasattr(comfy.ops, "uncast_bias_weight"):
        own = comfy.ops.uncast_bias_weight
        monkeypatch.setattr(comfy.ops, "uncast_bias_weight", lambda *args: told.append("given back") or own(*args))

    def product(weight, bias):
        told.append(weight.dtype)
        if error:
            raise error
        return weight.sum() + bias.sum()

    def forward():
        return host_layers.opened(layer)(torch.ones(2, 4), product)

    if error:
        with pytest.raises(error):
            forward()
    else:
        assert forward() == 16
    assert told == [torch.float32, "given back"][: 1 + hasattr(comfy.ops, "uncast_bias_weight")]


def test_a_replaced_layer_does_not_run_its_own_product():
    this = world("wan")
    name = "blocks.0.self_attn.q"
    layer = Replacement(torch.randn(128, 128), torch.zeros(128))
    this = replace(this, detail=replace(this.detail, layers={name: layer}))
    model = this.applied()
    module, calls = model.model.diffusion_model.get_submodule(name), []

    class Counted(type(module)):
        def forward(self, x):
            calls.append(None)
            return super().forward(x)

    module.__class__ = Counted
    this.sampled(model)
    assert len(calls) == 2, "in the semantic steps alone"
