"""A layer that ran past its forward is seen, compiled or not; what did not run at all is no fault."""

import pytest
import torch
import torch.nn.functional as F
from harness.experts import metadata
from torch import nn
from torch._dynamo.utils import counters

from dcm_core.expert.layers import Expert, LowRank
from dcm_core.expert.sidecar import HostLayers, Sidecar
from dcm_core.expert.watch import Modules

DIM = 8


class Holder(nn.Module):
    """Holds a layer that others call, as HunyuanVideo's attention does."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(DIM, DIM)


class Block(nn.Module):
    bypassed = False

    def __init__(self):
        super().__init__()
        self.attention = Holder()
        self.ffn = nn.Sequential(nn.Linear(DIM, DIM), nn.GELU(), nn.Linear(DIM, DIM))

    def forward(self, x):
        x = self.attention.qkv(x)
        if self.bypassed and not getattr(self.ffn[2], "own_forward", False):
            return F.linear(self.ffn[1](self.ffn[0](x)), self.ffn[2].weight, self.ffn[2].bias)
        return self.ffn(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(DIM, DIM), nn.SiLU())
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.optional = Block()

    def forward(self, x, skipped=()):
        x = x + self.time(x)
        for number, block in enumerate(self.blocks):
            x = x if number in skipped else block(x)
        return x


@pytest.fixture
def net():
    torch.manual_seed(0)
    torch.compiler.reset()
    return Net().requires_grad_(False)


X = torch.ones(2, DIM)


def expert(*names):
    return Expert(metadata(), {name: LowRank(torch.ones(2, DIM), torch.ones(DIM, 2), 1.0) for name in names})


EVERYWHERE = [
    "time.0",
    "optional.ffn.0",
    *(f"blocks.{i}.{name}" for i in range(3) for name in ("attention.qkv", "ffn.2")),
]


def bypassed_in(network, names=EVERYWHERE, **options):
    with Sidecar(expert(*names)).active(network) as watch:
        network(X, **options)
    return watch.bypassed()


@pytest.mark.parametrize("compiled", ["not", "whole", "blocks"])
def test_a_layer_that_is_bypassed_is_named(net, compiled):
    network = torch.compile(net, backend="eager") if compiled == "whole" else net
    if compiled == "blocks":
        net.blocks = nn.ModuleList(torch.compile(block, backend="eager") for block in net.blocks)
    assert bypassed_in(network) == []
    getattr(net.blocks[1], "_orig_mod", net.blocks[1]).bypassed = True
    for _ in range(2):
        assert bypassed_in(network) == ["blocks.1.ffn.2"]
        assert bypassed_in(network, names=["blocks.1.ffn.2"]) == ["blocks.1.ffn.2"]


def test_a_layer_of_the_network_itself_has_to_act_where_a_block_ran(net):
    net.time[0].__class__ = type("Past", (nn.Linear,), {"__call__": lambda self, x: x})
    assert bypassed_in(net) == bypassed_in(net, names=["time.0"]) == ["time.0"]
    assert bypassed_in(net, skipped=range(3)) == []


@pytest.mark.parametrize("skipped", [[1], range(3)])
def test_what_does_not_run_is_no_fault(net, skipped):
    assert bypassed_in(net, skipped=skipped) == []


def test_what_another_extension_calls_is_left_to_it(net):
    net.blocks[1].forward = lambda x: x
    assert bypassed_in(net) == []


def test_of_two_inside_each_other_both_see_what_did_not_act(net):
    net.blocks[1].bypassed = True
    with Sidecar(expert("blocks.1.ffn.0")).active(net) as outer, Sidecar(expert("blocks.1.ffn.2")).active(net) as inner:
        net(X)
    assert (outer.bypassed(), inner.bypassed()) == ([], ["blocks.1.ffn.2"])


def test_nothing_is_left_on_the_modules_that_hold_layers(net):
    before = {name: set(vars(module)) for name, module in net.named_modules()}
    assert bypassed_in(net) == []
    assert {name: set(vars(module)) for name, module in net.named_modules()} == before


def test_a_host_may_call_a_layers_forward_where_its_own_holder_would_not(net):
    net.blocks[0].bypassed = True
    host = HostLayers(unfused=lambda holder: lambda x: x if holder is net.blocks[0] else None)
    with Sidecar(expert("blocks.0.ffn.2"), host=host).active(net) as watch:
        assert torch.isfinite(net(X)).all()
    assert watch.bypassed() == ["blocks.0.ffn.2"], "the other forward is watched as well"
    unfused = HostLayers(unfused=lambda holder: lambda x: holder.ffn(holder.attention.qkv(x)))
    with Sidecar(expert("blocks.0.ffn.2"), host=unfused).active(net) as watch:
        net(X)
    assert watch.bypassed() == []


@pytest.mark.parametrize("before", [{}, {"own_forward": False}], ids=["unset", "set by another"])
def test_a_layer_asks_a_host_for_its_own_forward_while_it_is_changed(net, before):
    layer = net.blocks[0].ffn[2]
    vars(layer).update(before)
    kept, net.blocks[0].bypassed = dict(vars(layer)), True
    sidecar = Sidecar(expert("blocks.0.ffn.2"), host=HostLayers(own_forward="own_forward"))
    for _ in range(2):  # what one has set and taken back, the next finds as it was
        with sidecar.active(net) as watch:
            net(X)
        assert watch.bypassed() == []
        assert vars(layer) == kept
    with pytest.raises(RuntimeError, match="interrupted"), sidecar.active(net):
        raise RuntimeError("interrupted")
    assert vars(layer) == kept


def test_at_strength_zero_nothing_has_to_act(net):
    with Sidecar(expert(*EVERYWHERE), 0.0).active(net) as watch:
        net(X)
    assert watch.bypassed() == []


@pytest.mark.parametrize("whole", [True, False])
def test_switches_and_prompts_compile_nothing_anew(net, whole):
    """Two graphs, for as long as only what is computed on changes; one more at most for each other size or strength."""
    if whole:
        network = torch.compile(net, backend="eager")
    else:
        network = net
        net.blocks = nn.ModuleList(torch.compile(block, backend="eager") for block in net.blocks)
    sidecar = Sidecar(expert(*EVERYWHERE))

    def graphs(rows=2):
        counters.clear()
        for seed in range(4):
            x = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
            network(x)
            with sidecar.active(network) as watch:
                network(x)
            assert watch.bypassed() == []
        return counters["stats"]["unique_graphs"]

    assert graphs() == 2, "the blocks share theirs"
    assert graphs() == 0
    sidecar.strength = 0.5
    assert graphs() == 1
    sidecar.strength = 0.7
    assert graphs() <= 1
    assert graphs(rows=7) == 2
    assert graphs(rows=7) == 0


@pytest.mark.parametrize("compiled", ["not", "whole", "blocks"])
def test_a_module_is_looked_up_once(net, compiled, monkeypatch):
    """Networks have hundreds of target layers, and finding them is all that a GPU waits for between two calls."""
    if compiled == "blocks":
        net.blocks = nn.ModuleList(torch.compile(block, backend="eager") for block in net.blocks)
    modules = Modules(torch.compile(net, backend="eager") if compiled == "whole" else net)
    expected = {name: net.get_submodule(name) for name in EVERYWHERE}
    asked, own = [], Modules.get_submodule
    assert {name: modules.get_submodule(name) for name in EVERYWHERE} == expected
    monkeypatch.setattr(Modules, "get_submodule", lambda self, name: asked.append(name) or own(self, name))
    assert [modules.get_submodule(name) for name in EVERYWHERE] == list(expected.values()) and asked == EVERYWHERE
    for wrong in ("nothing", "blocks.0.nothing", "time.0.weight"):
        with pytest.raises(AttributeError):
            modules.get_submodule(wrong)
