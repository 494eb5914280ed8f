"""A layer of the detail expert that the host runs past its forward ends the run; what is left out by intent is fine."""

from dataclasses import replace

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from dcm_pack.dcm_core.expert.layers import LowRank
from dcm_pack.dcm_core.expert.sidecar import HostLayers
from dcm_pack.nodes.backbone import host_layers
from dcm_pack.nodes.backbone.host import host_version
from dcm_pack.nodes.experts import apply
from harness.quantised import FORMATS, quantised
from harness.worlds import relative, world

FEED_FORWARD = "blocks.1.ffn.2"
has_fused_layers = pytest.mark.skipif(not host_layers._FUSED, reason="this host calls every layer's forward")


def with_feed_forward(this):
    """The world's detail expert with a strong change of one feed-forward layer, and nothing else in that block."""
    generator = torch.Generator().manual_seed(5)
    pair = LowRank(torch.randn(4, 256, generator=generator), torch.randn(128, 4, generator=generator), 1.0)
    layers = {name: layer for name, layer in this.detail.layers.items() if not name.startswith("blocks.1.")}
    return replace(this, detail=replace(this.detail, layers=layers | {FEED_FORWARD: pair}))


def in_int8(this):
    """(a MODEL of the network in int8, a MODEL of the weights that it stands for)."""
    packed = quantised(this.network, FORMATS["int8"])
    return tuple(comfy.sd.load_diffusion_model_state_dict(state) for state in (packed.with_confs, dict(packed.plain)))


@has_fused_layers
def test_a_feed_forward_layer_in_int8_acts():
    this = with_feed_forward(world("wan"))
    model, plain = in_int8(this)
    alone = this.custom_sampled(plain, this.schedule.sigmas(4))
    expected = this.sampled(this.applied(plain, semantic_strength=0.0))
    assert relative(alone, expected) > 0.05
    result = this.sampled(this.applied(model, semantic_strength=0.0))
    assert relative(result, expected) < 0.02


@has_fused_layers
def test_a_layer_that_does_not_act_ends_the_run_with_its_name(monkeypatch):
    this = with_feed_forward(world("wan"))
    model, _ = in_int8(this)
    monkeypatch.setattr(apply, "HOST_LAYERS", HostLayers())
    with pytest.raises(ValueError, match=rf"did not act on {FEED_FORWARD}: ComfyUI {host_version()} .*DCM Bake"):
        this.sampled(this.applied(model, semantic_strength=0.0))


@has_fused_layers
def test_a_newer_host_is_asked_for_the_forward_of_each_changed_layer(monkeypatch):
    """One that lets a layer say so, also where nothing here knows the module that uses its weights."""
    this = with_feed_forward(world("wan"))
    model, plain = in_int8(this)
    fused, asked = comfy.ops.linear_input_act, []

    def asking(layer, x, name):
        asked.append(getattr(layer, "comfy_force_forward", False))
        return layer(torch.nn.functional.gelu(x, approximate="tanh")) if asked[-1] else fused(layer, x, name)

    monkeypatch.setattr(comfy.ops, "linear_input_act", asking)
    monkeypatch.setattr(apply, "HOST_LAYERS", HostLayers(own_forward="comfy_force_forward"))
    result = this.sampled(this.applied(model, semantic_strength=0.0))
    assert relative(result, this.sampled(this.applied(plain, semantic_strength=0.0))) < 0.02
    assert set(asked) == {True, False}
    assert not any("comfy_force_forward" in vars(module) for module in model.model.modules())


def test_only_a_host_that_asks_layers_is_told():
    assert host_layers.asked_for_own_forward(type("Linear", (), {"comfy_force_forward": False})) is not None
    assert host_layers.asked_for_own_forward(type("Linear", (), {})) is None


@pytest.mark.parametrize("layer", ["blocks.1.self_attn.q", "time_embedding.0", "head.head"])
def test_any_layer_that_is_run_past_its_forward_is_named(layer):
    this = world("wan")
    if layer not in this.detail.layers:
        pair = LowRank(torch.ones(1, 128), torch.ones(64, 1), 1.0)
        this = replace(this, detail=replace(this.detail, layers=this.detail.layers | {layer: pair}))
    model = this.applied()
    module = model.model.diffusion_model.get_submodule(layer)

    class Bypassed(type(module)):
        def __call__(self, x):
            return torch.nn.functional.linear(x, self.weight, self.bias)

    module.__class__ = Bypassed
    with pytest.raises(ValueError, match=f"did not act on {layer}: "):
        this.sampled(model)


BLOCKS = {"wan": ["double_block"], "hunyuan_video": ["double_block", "single_block"]}


@pytest.mark.parametrize("number", [[1], range(3)], ids=["one", "all"])
@pytest.mark.parametrize("family", BLOCKS)
def test_blocks_that_a_node_skips_are_no_fault(family, number):
    """As Skip Layer Guidance does with some, and step caches inside of a network with all."""
    this = world(family)
    model, skipped = this.applied(), []
    for kind in BLOCKS[family]:
        for each in number:
            model.set_model_patch_replace(lambda args, _: skipped.append(None) or args, "dit", kind, each)
    assert torch.isfinite(this.sampled(model)).all() and skipped


def test_a_forward_that_another_node_gave_a_block_may_skip_it():
    this = world("wan")
    model = this.applied()
    model.add_object_patch("diffusion_model.blocks.1.forward", lambda x, *args, **kwargs: x)
    assert torch.isfinite(this.sampled(model)).all()


def test_a_step_cache_is_no_fault():
    this = world("wan")
    model = EasyCacheNode.execute(
        this.applied(), reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False
    )
    assert torch.isfinite(this.sampled(model.args[0], steps=8)).all()


def test_inputs_that_a_network_does_without_are_no_fault():
    """HunyuanVideo without guidance: the layers that embed it do not run."""
    this = world("hunyuan_video")
    assert any(name.startswith("guidance_in.") for name in this.detail.layers)
    model = this.applied()
    model.model.diffusion_model.params.guidance_embed = False
    assert torch.isfinite(this.sampled(model)).all()
