"""In the host's process: two tiny MODELs as a high- and low-noise pair, and what two stock samplers make of them."""

from dataclasses import replace
from functools import cache

import comfy.sd
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from dcm_pack.dcm_core.expert.layers import Expert, LowRank
from dcm_pack.dcm_core.expert.tensor_names import to_tensors

import nodes

from . import tiny
from .worlds import empty_latent, world

# The published list of Wan 2.2's speed LoRAs: what the stock "simple" scheduler makes at shift 5.
STEPS, SHIFT, HIGH_STEPS = 4, 5.0, 2


@cache
def second():
    """The low-noise network: of the same class, and otherwise nothing in common."""
    return replace(world("wan"), network=tiny.randomise(tiny.wan(), seed=5).requires_grad_(False))


def pair():
    """(high-noise MODEL, low-noise MODEL), each of its own."""
    return world("wan").model(), second().model()


def stock(high, low, cut=HIGH_STEPS, cfgs=(1.0, 1.0), seed=0, latent=None):
    """What two KSamplerAdvanced make, the second with what the first leaves."""
    this = world("wan")
    texts = this.text(0), this.text(1)
    models = [ModelSamplingSD3().patch(model, SHIFT)[0] for model in (high, low)]
    latent = latent or empty_latent()
    sampling = ("euler", "simple", *texts)
    node = nodes.KSamplerAdvanced()
    (first,) = node.sample(models[0], "enable", seed, STEPS, cfgs[0], *sampling, latent, 0, cut, "enable")
    (last,) = node.sample(models[1], "disable", seed, STEPS, cfgs[1], *sampling, first, cut, 10000, "disable")
    return last["samples"]


def lora(seed):
    expert = tiny.random_expert(world("wan").network, "wan", "detail", seed=seed, strength=1.0)
    pairs = {name: layer for name, layer in expert.layers.items() if isinstance(layer, LowRank)}
    return to_tensors(Expert(expert.metadata, pairs))


def with_lora(model, seed):
    return comfy.sd.load_lora_for_models(model, None, lora(seed), 1.0, 0.0)[0]
