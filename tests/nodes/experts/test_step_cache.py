"""EasyCache and LazyCache skip calls of each expert, and never carry an answer of one over to the other."""

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from harness import tiny
from harness.loras import BOTH, Maker, all_of, stock
from harness.worlds import assert_same, relative, world

STEPS = 8


def cached(node, model, threshold=3.0):
    return node.execute(model, reuse_threshold=threshold, start_percent=0.0, end_percent=1.0, verbose=False).args[0]


def with_calls_counted(model, run):
    """(result, the calls that reached the network)."""
    network, calls = model.model.diffusion_model, []
    first = (network.blocks if hasattr(network, "blocks") else network.double_blocks)[0]
    hook = first.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        return run(), len(calls)
    finally:
        hook.remove()


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_cache_begins_anew_at_the_switch(family, node, order):
    """As with a sampler node, and so a cache, for each expert."""
    this = world(family)
    plain = this.sampled(this.applied(), steps=STEPS)
    semantic, detail = (cached(node, model) for model in this.baked())
    truth, needed = with_calls_counted(semantic, lambda: this.in_two_runs(semantic, detail, STEPS))
    assert needed < STEPS and relative(truth, plain) > 1e-3, "the cache skips nothing"
    model = this.applied(cached(node, this.model())) if order == "before" else cached(node, this.applied())
    for _ in range(2):
        result, calls = with_calls_counted(model, lambda: this.sampled(model, steps=STEPS))
        assert calls == needed
        assert_same(result, truth, this.without_detail(steps=STEPS), 1e-4)


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_with_two_steps_for_each_expert_nothing_is_skipped(node):
    """A cache needs two answers before it can guess a third."""
    this = world("wan")
    assert torch.equal(this.sampled(cached(node, this.applied())), this.sampled(this.applied()))


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
@pytest.mark.parametrize("order", ["before", "after"])
def test_without_experts_a_lora_of_two_strengths_has_a_cache_for_each(node, order, put):
    this = world("wan")
    tensors = all_of(Maker(this.network).pair)
    truth = this.in_two_runs(*(cached(node, stock(this.model(), tensors, strength)) for strength in BOTH), steps=STEPS)
    base = cached(node, this.model()) if order == "before" else this.model()
    model = put(base, tensors, *BOTH)[0]
    model = cached(node, model) if order == "after" else model
    assert relative(this.sampled(model, steps=STEPS), truth) <= 1e-5
    assert relative(this.sampled(put(this.model(), tensors, *BOTH)[0], steps=STEPS), truth) >= 1e-3
