"""Every kind of layer as patches of the host: what the host makes of them is what the layer says it does."""

import comfy.lora
import pytest
import torch
from dcm_pack.dcm_core.expert.layers import Difference, FusedLowRank, LowRank, Replacement
from dcm_pack.nodes.experts.merge import layer_patches

IN, OUT, RANK = 6, 24, 2


def tensor(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYERS = {
    "a pair": LowRank(tensor(RANK, IN), tensor(OUT, RANK), 3.0),
    "fused pairs": FusedLowRank(tensor(3 * RANK, IN), tensor(3 * IN, RANK), 3.0, OUT),
    "a difference": Difference(tensor(OUT, IN), tensor(OUT)),
    "a new weight": Replacement(tensor(OUT, IN)),
}


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_host_makes_of_the_patches_what_the_layer_says(kind, strength):
    layer, base = LAYERS[kind], {"weight": tensor(OUT, IN), "bias": tensor(OUT)}
    made = {name: value.clone() for name, value in base.items()}
    for key, patch in layer_patches("q", layer).items():
        name, rows = (key, None) if isinstance(key, str) else key
        entry = (strength, patch, 1 - strength if layer.replaces else 1.0, rows, None)
        own = name.removeprefix("q.")
        made[own] = comfy.lora.calculate_weight([entry], made[own], name)
    delta = layer.delta(base)
    for name, value in base.items():
        expected = value + strength * delta[name] if name in delta else value
        torch.testing.assert_close(made[name], expected)


def test_only_a_fused_layer_is_patched_by_rows():
    keys = {kind: list(layer_patches("q", layer)) for kind, layer in LAYERS.items()}
    assert keys["fused pairs"] == [("q.weight", (0, first, IN)) for first in (0, IN, 2 * IN)]
    assert keys["a pair"] == ["q.weight"] and keys["a difference"] == ["q.weight", "q.bias"]
