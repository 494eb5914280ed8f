"""What hosts do to models: other dtypes and devices of the base, moves of the sidecar, torch.compile."""

import copy
import gc
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from harness.experts import metadata
from torch import nn

from dcm_core.expert.layers import Difference, Expert, LowRank
from dcm_core.expert.merge import merged
from dcm_core.expert.sidecar import HostLayers, Sidecar

DIM = 16
HOST_LAYERS, TOLD = [HostLayers(), HostLayers(opened=lambda module: None)], ["within the weight", "beside it"]


class CastLinear(nn.Linear):
    """A host's Linear: the weight is stored in any dtype or place and cast when it is used."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.device, x.dtype), self.bias.to(x.device, x.dtype))


class PackedLinear(nn.Module):
    """A quantised Linear: there is no weight to look at, only sizes and a result."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = [linear]

    def forward(self, x):
        return F.linear(x, self.packed[0].weight, self.packed[0].bias)


class Net(nn.Module):
    def __init__(self, linear=nn.Linear):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, DIM))
        self.q = linear(DIM, DIM)
        self.o = linear(DIM, DIM)

    def forward(self, x):
        return self.o(torch.tanh(self.q(x) * (1 + self.modulation.to(x.device, x.dtype))))


def detail_expert(dtype=torch.float32) -> Expert:
    generator = torch.Generator().manual_seed(2)

    def tensor(*shape):
        return (0.3 * torch.randn(shape, generator=generator)).to(dtype)

    layers = {
        "q": LowRank(tensor(3, DIM), tensor(DIM, 3), 6.0),
        "o": Difference(tensor(DIM, DIM), tensor(DIM)),
    }
    return Expert(metadata(), layers, {"modulation": tensor(1, DIM)})


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(2, 7, DIM, generator=torch.Generator().manual_seed(1))


def merged_net(net, expert):
    other = copy.deepcopy(net)
    other.load_state_dict(merged(net.state_dict(), expert))
    return other


def test_an_fp8_base_loses_nothing_of_the_expert(net, x):
    """Merged into fp8 weights the expert would be rounded; beside them it is exact."""
    stored = Net(CastLinear).requires_grad_(False)
    stored.load_state_dict(net.state_dict())
    stored.to(torch.float8_e4m3fn)
    rounded = Net().requires_grad_(False)
    rounded.load_state_dict({name: value.float() for name, value in stored.state_dict().items()})
    with Sidecar(detail_expert()).active(stored):
        inside = stored(x)
    torch.testing.assert_close(inside, merged_net(rounded, detail_expert())(x), rtol=1e-5, atol=1e-5)
    assert stored.q.weight.dtype == stored.modulation.dtype == torch.float8_e4m3fn


def test_a_packed_base_layer_is_enough(net, x):
    expected = merged_net(net, detail_expert())(x)
    net.q, net.o = PackedLinear(net.q), PackedLinear(net.o)
    with Sidecar(detail_expert()).active(net):
        inside = net(x)
    torch.testing.assert_close(inside, expected, rtol=1e-5, atol=1e-5)


def test_the_base_weight_is_never_touched(net, x):
    """A weight on a device without data would fail on any use."""

    class Elsewhere(nn.Linear):
        def forward(self, x):
            return 2 * x

    net.q, net.o = Elsewhere(DIM, DIM, device="meta"), Elsewhere(DIM, DIM, device="meta")
    with Sidecar(detail_expert()).active(net):
        assert torch.isfinite(net(x)).all()


@pytest.mark.parametrize("activation", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("host_layers", HOST_LAYERS, ids=TOLD)
def test_it_computes_in_the_dtype_of_the_activation(net, x, activation, stored, host_layers):
    net, x = net.to(activation), x.to(activation)
    with Sidecar(detail_expert(stored), host=host_layers).active(net):
        inside = net(x)
        assert net.modulation.dtype == net.q(x).dtype == activation
    assert inside.dtype == activation
    exact = merged_net(net.double(), detail_expert(stored))(x.double())
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-6}.get(activation, 5e-2)
    torch.testing.assert_close(inside.double(), exact, rtol=tolerance, atol=tolerance)


def test_copies_for_another_dtype_do_not_outlive_the_call(net, x):
    """The host counts and moves the parameters of the sidecar, and would know nothing of other tensors there."""
    sidecar = Sidecar(detail_expert())
    with sidecar.active(net.to(torch.bfloat16)):
        net(x.to(torch.bfloat16))
    gc.collect()
    assert not kept_tensors(sidecar)
    sidecar.terms[0].copies = [torch.zeros(1)]
    assert kept_tensors(sidecar), "the check itself sees one"


def kept_tensors(sidecar):
    """Tensors that hang on the sidecar's modules and are no parameters."""
    own = {id(parameter) for parameter in sidecar.parameters()}
    found, seen = [vars(module) for module in sidecar.modules()], set()
    tensors = []
    while found:
        value = found.pop()
        if id(value) in seen or id(value) in own:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, dict):
            found += [each for key, each in value.items() if not isinstance(each, torch.nn.Module)]
        elif isinstance(value, list | tuple | set):
            found += value
    return tensors


def test_after_a_cast_by_the_host_the_new_tensors_are_used(net, x):
    sidecar = Sidecar(detail_expert())
    with sidecar.active(net.to(torch.bfloat16)):
        net(x.to(torch.bfloat16))
    for parameter in sidecar.parameters():
        parameter.zero_()
    sidecar.to(torch.float32)
    plain = net(x.to(torch.bfloat16))
    with sidecar.active(net):
        assert torch.equal(net(x.to(torch.bfloat16)), plain)


def test_the_host_can_count_move_and_copy_it():
    expert = detail_expert(torch.bfloat16)
    sidecar = Sidecar(expert)
    state = sidecar.state_dict()
    elements = 2 * 3 * DIM + DIM * DIM + DIM + DIM
    assert sum(tensor.numel() for tensor in state.values()) == elements
    # A host moves leaves that own Parameters and skips those of modules with children.
    assert all(not list(module.children()) for module in sidecar.modules() if list(module.parameters(recurse=False)))
    assert all(not parameter.requires_grad for parameter in sidecar.parameters())
    assert {parameter.dtype for parameter in sidecar.to(torch.float16).parameters()} == {torch.float16}
    twin = copy.deepcopy(sidecar)
    assert twin.strength == 1.0 and len(twin.state_dict()) == len(state)
    assert expert.layers["q"].down.dtype == torch.bfloat16


def compiled(model, seen):
    def backend(graph, _):
        seen.append(graph)
        return graph.forward

    return torch.compile(model, backend=backend)


@pytest.mark.parametrize("part", ["whole", "block", "layer"])
def test_a_compiled_model_sees_it_come_and_go(net, x, part):
    torch.compiler.reset()
    expert, graphs = detail_expert(), []
    expert.layers = {f"0.{name}": layer for name, layer in expert.layers.items()}
    expert.parameters = {f"0.{name}": value for name, value in expert.parameters.items()}
    sidecar, fast = Sidecar(expert), nn.Sequential(net)
    off = fast(x)
    with sidecar.active(fast):
        on = fast(x)
    if part == "whole":
        fast = compiled(fast, graphs)
    elif part == "block":
        fast[0] = compiled(net, graphs)
    else:
        net.q = compiled(net.q, graphs)
    for _ in range(5):
        assert torch.equal(fast(x), off)
        with sidecar.active(fast):
            # Beside a compiled layer its term is added to the output, elsewhere to the weight.
            torch.testing.assert_close(fast(x), on, rtol=0, atol=1e-5 if part == "layer" else 0)
    # Compiled once for each state, not once for each step; beside a compiled layer the expert runs eagerly.
    assert len(graphs) == (1 if part == "layer" else 2)


def test_a_compiled_model_sees_casts_and_a_foreign_forward(net, x):
    torch.compiler.reset()
    own = net.q.forward
    net.q.forward = lambda x: 1.5 * own(x)
    net, x = net.to(torch.bfloat16), x.to(torch.bfloat16)
    sidecar, graphs = Sidecar(detail_expert()), []
    off = net(x)
    with Sidecar(detail_expert()).active(net):
        on = net(x)
    fast = compiled(net, graphs)
    for _ in range(3):
        assert torch.equal(fast(x), off)
        with sidecar.active(fast):
            assert torch.equal(fast(x), on)
    assert len(graphs) == 2
    assert not kept_tensors(sidecar)  # what a compiled region makes is its own


def test_it_works_in_inference_mode_and_lets_gradients_through(net, x):
    sidecar = Sidecar(detail_expert())
    merged_one = merged_net(net, detail_expert())
    with torch.inference_mode(), sidecar.active(net):
        torch.testing.assert_close(net(x), merged_one(x), rtol=1e-5, atol=1e-5)
    gradients = []
    for one, context in ((net, sidecar.active(net)), (merged_one, nullcontext())):
        leaf = x.clone().requires_grad_()
        with context:
            one(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_one_sidecar_may_serve_two_models_in_two_threads(net, x):
    nets = [net, copy.deepcopy(net)]
    sidecar = Sidecar(detail_expert())
    expected, results = merged_net(net, detail_expert())(x), []

    def run(one):
        for _ in range(50):
            with sidecar.active(one):
                results.append(one(x))

    threads = [threading.Thread(target=run, args=(one,)) for one in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 100
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: needs CUDA and a PyTorch built for it")
def test_weights_on_the_cpu_and_activations_on_the_gpu(net, x):
    offloaded = Net(CastLinear).requires_grad_(False)
    offloaded.load_state_dict(net.state_dict())
    sidecar = Sidecar(detail_expert())
    with sidecar.active(offloaded):
        inside = offloaded(x.cuda())
    torch.testing.assert_close(inside.cpu(), merged_net(net, detail_expert())(x), rtol=1e-4, atol=1e-4)
