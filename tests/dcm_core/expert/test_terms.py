"""Both ways in which a term acts, beside the layer's product and within its weight, and which of them is taken."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from harness.experts import metadata
from torch import nn

from dcm_core.expert.layers import Difference, Expert, FusedLowRank, LowRank, Replacement
from dcm_core.expert.merge import merged
from dcm_core.expert.sidecar import Sidecar
from dcm_core.expert.terms import TERMS, LayerTerm, product

WIDTH, RANK, ROWS = 32, 4, 96
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
STRENGTHS = [1.0, 0.5, -0.7]


def tensor(*shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def small(*shape: int) -> torch.Tensor:
    return tensor(*shape, size=0.1)


# Each kind of layer, with the number of the layer's outputs.
LAYERS = {
    "low rank": (LowRank(small(RANK, WIDTH), small(48, RANK), 2.0 * RANK), 48),
    "fused": (FusedLowRank(small(3 * RANK, WIDTH), small(3 * WIDTH, RANK), 2.0 * RANK, 3 * WIDTH), 3 * WIDTH),
    "fused with more rows": (
        FusedLowRank(small(3 * RANK, WIDTH), small(3 * WIDTH, RANK), 2.0 * RANK, 3 * WIDTH + 40),
        3 * WIDTH + 40,
    ),
    "difference": (Difference(small(48, WIDTH), small(48)), 48),
    "difference of the weight": (Difference(small(48, WIDTH)), 48),
    "difference of the bias": (Difference(bias=small(48)), 48),
    "replacement": (Replacement(tensor(48, WIDTH).flip(0), tensor(48).flip(0)), 48),
}


def relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


def network(kind: str, dtype: torch.dtype) -> nn.Sequential:
    linear = nn.Linear(WIDTH, LAYERS[kind][1])
    linear.weight.data, linear.bias.data = (tensor(*each.shape) for each in (linear.weight, linear.bias))
    return nn.Sequential(linear).requires_grad_(False).to(dtype)


def expert(kind: str, dtype: torch.dtype) -> Expert:
    return Expert(metadata(), {"0": LAYERS[kind][0]}).map(lambda each: each.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_both_ways_are_no_further_from_float64_than_merged_weights(kind, dtype, strength, monkeypatch):
    net, change, x = network(kind, dtype), expert(kind, dtype), tensor(2, ROWS, WIDTH).to(dtype)
    exact = {key: value.double() for key, value in net.state_dict().items()}
    for key, delta in in_float64(change.layers["0"], {key[2:]: value for key, value in exact.items()}).items():
        exact[f"0.{key}"] = exact[f"0.{key}"] + strength * delta
    truth = F.linear(x.double(), exact["0.weight"], exact["0.bias"])
    baked = network(kind, dtype)
    baked.load_state_dict(merged(net.state_dict(), change, strength))
    bound = 1.02 * relative(baked(x), truth) + (1e-6 if dtype == torch.float32 else 1e-12)
    errors = {}
    for cheaper in (True, False):
        monkeypatch.setattr(LayerTerm, "merging_is_cheaper", lambda self, rows, cheaper=cheaper: cheaper)
        with Sidecar(change, strength).active(net):
            errors[cheaper] = relative(net(x), truth)
    assert errors[True] <= bound
    assert errors[False] <= 2 * bound, "beside, the output is rounded once more"
    assert relative(network(kind, dtype)(x), truth) > 4 * bound, "the change does too little to be tested"


def in_float64(layer, base):
    """What the layer adds to each tensor, at strength 1."""
    changes = {key: tensor.double() - (base[key] if layer.replaces else 0) for key, tensor in layer.tensors.items()}
    for first, pair in layer.pairs:
        delta = changes.setdefault("weight", torch.zeros_like(base["weight"]))
        delta[first : first + len(pair.up)] += pair.scale * pair.up.double() @ pair.down.double()
    return changes


def test_the_weight_is_left_as_it_is(kind):
    """It may be the layer's own, or lie in a buffer that a host casts the next one into."""
    net, term = network(kind, torch.float32), expert(kind, torch.float32).layers["0"]
    weight, bias = (each.clone() for each in net.parameters())
    product([(TERMS[type(term)]("0", term), 0.5)], tensor(ROWS, WIDTH), weight, bias)
    assert torch.equal(weight, net[0].weight) and torch.equal(bias, net[0].bias)


def test_a_weight_that_is_not_plain_is_multiplied_as_it_is(kind):
    """What a host makes of packed weights, or another dtype: then the change goes beside the product."""

    class Packed(torch.Tensor):
        pass

    net, layer, x = network(kind, torch.float32), LAYERS[kind][0], tensor(ROWS, WIDTH)
    weight, bias = net.parameters()
    term = TERMS[type(layer)]("0", layer)
    term.merged = None
    expected = term(x, F.linear(x, weight, bias), 0.5)
    assert torch.equal(product([(term, 0.5)], x, weight.data.as_subclass(Packed), bias), expected)


def test_few_tokens_go_beside_and_many_within(kind):
    layer, width = LAYERS[kind]
    term = TERMS[type(layer)]("0", layer)
    answers = [term.merging_is_cheaper(rows) for rows in range(1, 4 * WIDTH + 1)]
    assert answers == sorted(answers), "once it is cheaper, more tokens change nothing"
    assert not answers[0] and answers[-1]


@pytest.mark.parametrize("family", ["Wan 1.3B", "HunyuanVideo"])
def test_videos_are_many_tokens_and_time_embeddings_few(family):
    width, out = {"Wan 1.3B": (1536, 1536), "HunyuanVideo": (3072, 9216)}[family]
    with torch.device("meta"):
        pair = LowRank(torch.empty(128, width), torch.empty(out, 128), 128.0)
        whole = Difference(torch.empty(out, width), torch.empty(out))
    for layer in (pair, whole):
        term = TERMS[type(layer)]("layer", layer)
        assert term.merging_is_cheaper(32760) and not term.merging_is_cheaper(1)


def test_a_replaced_layer_skips_the_product_that_it_would_throw_away():
    layer = Replacement(tensor(48, WIDTH).flip(0), tensor(48).flip(0))
    net, x = network("replacement", torch.float32), tensor(ROWS, WIDTH)

    class Counted(nn.Linear):
        calls = 0

        def forward(self, x):
            Counted.calls += 1
            return super().forward(x)

    net[0].__class__ = Counted
    for strength, calls in ((1.0, 0), (0.5, 1)):
        with Sidecar(Expert(metadata(), {"0": layer}), strength).active(net):
            result = net(x)
        assert Counted.calls == calls
        expected = torch.lerp(F.linear(x, net[0].weight, net[0].bias), F.linear(x, layer.weight, layer.bias), strength)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("is_cuda", [True, False])
def test_a_gpu_is_not_waited_for(is_cuda, monkeypatch):
    """A copy at each use of what a host left in memory would end the queue of a GPU's work a few hundred times."""
    waits, own = [], torch.Tensor.to

    def to(self, *args, non_blocking=False, **kwargs):
        waits.append(not non_blocking)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    term, x = TERMS[LowRank]("0", LAYERS["low rank"][0]), SimpleNamespace(device="meta", dtype=torch.bfloat16)
    x.is_cuda = is_cuda
    assert term.cast("down", x).is_meta and waits[0] is not is_cuda
