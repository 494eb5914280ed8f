"""A detail expert in both ways, and baked, against the same networks in float64: every family, dtype and format.

Quantised layers of newer hosts are in ../backbone/test_quantised.py.
"""

from itertools import product

import comfy.sd
import pytest
from dcm_pack.dcm_core.expert import sidecar
from dcm_pack.dcm_core.expert.layers import Expert, LowRank
from dcm_pack.dcm_core.expert.tensor_names import to_tensors
from dcm_pack.dcm_core.expert.terms import LayerTerm
from harness import tiny
from harness.exactness import EIGHT_BITS, FORMATS, KINDS, PLAIN, exact_world
from harness.worlds import relative

BESIDE, WITHIN = "beside", "within"
# The host's own CogVideoX casts texts to what a weight is stored in, which bytes in blocks do not survive.
CELLS = [each for each in product(KINDS, FORMATS) if each != ("cogvideox", "blocks of 8 bits")]
# How far from float64. Weights of 8 bits are cast to float32, and nothing of the detail expert is rounded to them.
BOUND = {"float32": 2e-6, "bfloat16": 0.015, "float16": 0.002}


@pytest.fixture
def within(monkeypatch):
    """Sampled with all layers in one of the ways, whichever is cheaper; and how many had the expert in their weight."""
    counted, own = [], sidecar.product
    monkeypatch.setattr(sidecar, "product", lambda *args: counted.append(None) or own(*args))

    def sampled(this, model, way):
        counted.clear()
        monkeypatch.setattr(LayerTerm, "merging_is_cheaper", lambda term, rows: way == WITHIN)
        return this.sampled(model), len(counted)

    return sampled


def lora(this, seed):
    """A LoRA on the layers that the detail expert changes too."""
    expert = tiny.random_expert(this.network, this.family, "detail", seed, strength=0.15)
    return Expert(expert.metadata, {name: each for name, each in expert.layers.items() if isinstance(each, LowRank)})


def with_lora(model, lora):
    return comfy.sd.load_lora_for_models(model, None, to_tensors(lora), 1.0, 0.0)[0]


@pytest.mark.parametrize("loras", [False, True], ids=["alone", "with a LoRA before and one after"])
@pytest.mark.parametrize(("kind", "format"), CELLS)
def test_it_is_as_near_to_float64_as_a_baked_one(models, within, kind, format, loras):
    this = exact_world(kind)
    load, state = this.stored(format, models)
    around = (lora(this, 21), lora(this, 22)) if loras else ()
    # A semantic expert is merged into the weights, and would be rounded to 8 bits.
    strengths = {} if format in PLAIN else {"semantic_strength": 0.0}
    below = (*around, this.semantic) if format in PLAIN else around
    exact = this.in_float64(state, below, (*below, this.detail))

    def applied(**options):
        model = this.applied(with_lora(load(), around[0]) if loras else load(), **strengths, **options)
        return with_lora(model, around[1]) if loras else model

    errors, number = {}, {}
    for way in (BESIDE, WITHIN):
        result, number[way] = within(this, applied(), way)
        errors[way] = relative(result, exact)
    baked = relative(this.in_two_runs(*this.baked(applied())), exact)
    plain = format in PLAIN or format in EIGHT_BITS
    assert number == {BESIDE: 0, WITHIN: 2 * len(this.detail.layers) if plain else 0}, "in both detail steps"
    # Runs that round in another order part a little.
    assert max(errors.values()) <= 1.5 * baked + 1e-6
    if format in PLAIN or not loras or "blocks" in format:  # a LoRA is rounded to 8 bits
        assert max(errors.values()) <= BOUND.get(format, BOUND["float32"])
    without = relative(this.sampled(applied(detail_strength=0.0)), exact)
    assert without > 2 * max(errors.values()), "the detail expert does too little to be tested"
