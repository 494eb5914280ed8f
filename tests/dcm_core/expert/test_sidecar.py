"""The sidecar gives what merged weights give, and leaves no trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from harness.experts import metadata
from torch import nn

from dcm_core.errors import ExpertFileError
from dcm_core.expert.layers import Difference, Expert, FusedLowRank, LowRank, Replacement
from dcm_core.expert.merge import merged
from dcm_core.expert.sidecar import HostLayers, Sidecar, acting
from dcm_core.expert.terms import LayerTerm

DIM = 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, DIM))
        self.q = nn.Linear(DIM, DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM + 5)
        self.o = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x, e):
        shift, scale = (self.modulation + e).chunk(2, dim=1)
        q, k, v, _ = self.qkv(x).split([DIM, DIM, DIM, 5], dim=-1)
        return x + self.o(torch.tanh(self.q(x * (1 + scale) + shift)) + q * torch.sigmoid(k) - v)


class Net(nn.Module):
    """Wan in small: linear layers in blocks, a time embedder, and bare Parameters of non-leaf modules."""

    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(4, DIM), nn.SiLU(), nn.Linear(DIM, 2 * DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(DIM, 5)
        self.late = nn.Linear(5, 5)

    def forward(self, x, t):
        e = self.time(t).unflatten(1, (2, DIM))
        for block in self.blocks:
            x = block(x, e)
        return self.late(self.head(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 7, DIM, generator=generator), torch.randn(2, 4, generator=generator)


def detail_expert() -> Expert:
    """Every way to change a layer, on this net."""
    generator = torch.Generator().manual_seed(2)

    def tensor(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    layers = {
        "blocks.0.q": LowRank(tensor(3, DIM), tensor(DIM, 3), 6.0),
        "blocks.0.o": LowRank(tensor(4, DIM), tensor(DIM, 4), 2.0),
        "blocks.0.qkv": FusedLowRank(tensor(6, DIM), tensor(3 * DIM, 2), 3.0, 3 * DIM + 5),
        "blocks.1.q": Difference(tensor(DIM, DIM), tensor(DIM)),
        "blocks.1.o": Difference(tensor(DIM, DIM)),
        "time.0": Difference(tensor(DIM, 4), tensor(DIM)),
        "time.2": LowRank(tensor(2, DIM), tensor(2 * DIM, 2), 2.0),
        "head": Difference(bias=tensor(5)),
        "late": Replacement(tensor(5, 5), tensor(5)),
    }
    return Expert(metadata(), layers, {"blocks.1.modulation": tensor(1, 2, DIM)})


def snapshot(net):
    """Whatever a trace would show in: instance attributes, Parameter objects, and their values."""
    return {
        name: (
            set(module.__dict__),
            module.__dict__.get("forward"),
            dict(module._parameters),
            dict(module._modules),
        )
        for name, module in net.named_modules()
    }, {name: (id(p), p._version, p.clone()) for name, p in net.named_parameters()}


def assert_untouched(net, before):
    after = snapshot(net)
    assert before[0] == after[0]
    for name, (identity, version, value) in before[1].items():
        assert after[1][name][:2] == (identity, version)
        assert torch.equal(after[1][name][2], value)


def merged_net(net, expert, strength=1.0):
    other = copy.deepcopy(net)
    other.load_state_dict(merged(net.state_dict(), expert, strength))
    return other


@pytest.mark.parametrize("strength", [1.0, 0.5, -0.7, 0.0])
def test_it_equals_merged_weights(net, inputs, strength):
    plain = net(*inputs)
    expected = merged_net(net, detail_expert(), strength)(*inputs)
    sidecar = Sidecar(detail_expert(), strength)
    before = snapshot(net)
    with sidecar.active(net):
        inside = net(*inputs)
    torch.testing.assert_close(inside, expected, rtol=1e-5, atol=1e-5)
    assert strength == 0 or (inside - plain).abs().max() > 1e-2
    assert_untouched(net, before)
    assert torch.equal(net(*inputs), plain)


@pytest.mark.parametrize("name", [*detail_expert().layers, *detail_expert().parameters])
def test_every_tensor_takes_effect(net, inputs, name):
    """One tensor of the expert left out is seen in the result."""
    whole, less = detail_expert(), detail_expert()
    less.layers.pop(name, None)
    less.parameters.pop(name, None)
    with Sidecar(whole).active(net):
        one = net(*inputs)
    with Sidecar(less).active(net):
        other = net(*inputs)
    assert (one - other).abs().max() > 1e-3


def test_strength_may_change_between_calls(net, inputs):
    sidecar = Sidecar(detail_expert())
    with sidecar.active(net):
        net(*inputs)
    sidecar.strength = 0.25
    with sidecar.active(net):
        inside = net(*inputs)
    torch.testing.assert_close(inside, merged_net(net, detail_expert(), 0.25)(*inputs), rtol=1e-5, atol=1e-5)


def test_at_strength_zero_nothing_is_computed(net, inputs):
    sidecar, calls = Sidecar(detail_expert(), 0.0), []
    for term in sidecar.terms:
        term.register_forward_hook(lambda *_: calls.append(1))
    plain = net(*inputs)
    with sidecar.active(net):
        assert torch.equal(net(*inputs), plain)
    assert not calls


class Interrupt(BaseException):
    """The host's interrupt may come as anything."""


@pytest.mark.parametrize("where", ["time.0", "blocks.0.q", "blocks.1.o", "head"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interrupt])
def test_an_error_in_any_layer_leaves_no_trace(net, inputs, where, error):
    layer = net.get_submodule(where)
    plain = net(*inputs)

    def fail(*_, **__):
        raise error

    own = layer.forward
    layer.forward = fail
    before = snapshot(net)
    with pytest.raises(error), Sidecar(detail_expert()).active(net):
        net(*inputs)
    assert_untouched(net, before)
    layer.forward = own
    assert torch.equal(net(*inputs), plain)


def test_an_error_while_it_is_switched_on_leaves_no_trace(net):
    """Out of memory while the last Parameter is being made: everything else is in place already."""
    sidecar = Sidecar(detail_expert())

    def fail(*_):
        raise torch.OutOfMemoryError("no memory left")

    sidecar.parameter_terms[0].added_to = fail
    before = snapshot(net)
    with pytest.raises(torch.OutOfMemoryError), sidecar.active(net):
        pass
    assert_untouched(net, before)


def test_a_wrong_target_is_named_before_anything_changes(net):
    cases = {
        "blocks.7.q": (LowRank(torch.zeros(2, DIM), torch.zeros(DIM, 2), 1.0), "no Linear layer blocks.7.q"),
        "blocks.0": (Difference(torch.zeros(DIM, DIM)), "no Linear layer blocks.0"),
        "time.1": (Difference(torch.zeros(DIM, DIM)), "no Linear layer time.1"),
        "head": (
            LowRank(torch.zeros(2, DIM), torch.zeros(6, 2), 1.0),
            r"head.weight has shape \[5, 16\].*\[6, 16\]",
        ),
        "blocks.0.q": (Replacement(torch.zeros(DIM, DIM)), "blocks.0.q has a bias in only one"),
        "blocks.1.q": (Difference(bias=torch.zeros(3)), r"blocks.1.q.bias has shape \[16\].*\[3\]"),
    }
    for name, (layer, words) in cases.items():
        expert = detail_expert()
        expert.layers[name] = layer
        before = snapshot(net)
        with pytest.raises(ExpertFileError, match=words), Sidecar(expert).active(net):
            pass
        assert_untouched(net, before)
    for name, words in {
        "blocks.1.gate": "no Parameter blocks.1.gate",
        "blocks.0.modulation": "has shape",
    }.items():
        expert = detail_expert()
        expert.parameters[name] = torch.zeros(2)
        before = snapshot(net)
        with pytest.raises(ExpertFileError, match=words), Sidecar(expert).active(net):
            pass
        assert_untouched(net, before)


def test_a_forward_another_extension_set_keeps_acting(net, inputs):
    """An extension's own low-rank bypass on the same layer: both act, and it is back afterwards."""
    layer = net.blocks[0].q
    own, extra = layer.forward, 0.3 * torch.randn(DIM, DIM)
    layer.forward = lambda x: own(x) + F.linear(x, extra)
    before = snapshot(net)
    with Sidecar(detail_expert()).active(net):
        inside = net(*inputs)
    assert_untouched(net, before)

    patched = copy.deepcopy(net)
    del patched.blocks[0].q.forward
    patched.blocks[0].q.weight.add_(extra)
    torch.testing.assert_close(inside, merged_net(patched, detail_expert())(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["blocks.0.q", "blocks.1.q", "head", "late"])
def test_what_another_forward_keeps_is_not_written_into(net, inputs, layer):
    """A forward that answers from a cache gets its own tensor back, unchanged, in the next call."""
    module = net.get_submodule(layer)
    kept = torch.randn(2, 7, module.out_features)
    module.forward = lambda x: kept
    before = kept.clone()
    with Sidecar(detail_expert(), 0.5).active(net):
        first, second = net(*inputs), net(*inputs)
    assert torch.equal(kept, before)
    assert torch.equal(first, second) and not torch.equal(first, net(*inputs))


def test_several_changes_of_a_layer_act_together_each_at_its_strength(net, inputs):
    first, second, third = (detail_expert() for _ in range(3))
    changes = [(Sidecar(first), 1.0), (Sidecar(second), -0.4), (Sidecar(third), 0.0)]
    before = snapshot(net)
    for within in (False, True):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(LayerTerm, "merging_is_cheaper", lambda term, rows, within=within: within)
            with acting(net, changes, HostLayers()) as watch:
                inside = net(*inputs)
        assert watch.bypassed() == []
        assert_untouched(net, before)
        both = merged_net(merged_net(net, first), second, -0.4)
        torch.testing.assert_close(inside, both(*inputs), rtol=1e-5, atol=1e-5)


def test_two_sidecars_add_up_and_unwind(net, inputs):
    first_expert, second_expert = detail_expert(), detail_expert()
    first, second = Sidecar(first_expert), Sidecar(second_expert, 0.5)
    before = snapshot(net)
    with first.active(net), second.active(net):
        inside = net(*inputs)
    assert_untouched(net, before)
    twice = merged_net(merged_net(net, first_expert), second_expert, 0.5)
    torch.testing.assert_close(inside, twice(*inputs), rtol=1e-5, atol=1e-5)


def test_a_layer_changed_by_others_inside_the_block_is_restored_all_the_same(net, inputs):
    plain = net(*inputs)
    before = snapshot(net)
    with Sidecar(detail_expert()).active(net):
        del net.blocks[0].q.forward
        net.blocks[1].q.forward = None
    assert_untouched(net, before)
    assert torch.equal(net(*inputs), plain)
