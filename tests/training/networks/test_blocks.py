"""What is wrapped around blocks changes memory and speed, and no velocity and no gradient."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.config import ComputeConfig, Config, ConfigError, build
from training.networks.blocks import place, prepare

ADAPTER = {"mode": "adapter"}


def gradients(method, batch, between=lambda: None):
    """Of the student's velocity, with whatever runs before its backward pass."""
    draws = method.draws(0)
    sigma = torch.tensor([0.2, 0.5, 0.7, 0.9])
    x = method.process.noised(batch.latents, draws.noise("noise", batch.latents), sigma)
    velocity = method.model(method.student, batch.conditions)(x, sigma)
    between()
    method.learners["student"].optimizers[0].zero_grad()
    velocity.square().mean().backward()
    return {name: p.grad.clone() for name, p in method.trainable.items()}


@pytest.fixture
def method(trainer):
    """Makes a detail method that has learned a little, so that no factor of its pairs is zero."""

    def make(compute, mode="adapter", **settings):
        made = trainer("detail", {"mode": mode, "target_ema": 0.5}, compute=compute, **settings).method
        with torch.no_grad():
            for name, p in sorted(made.trainable.items()):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))), alpha=0.02)
        return made

    return make


@pytest.mark.parametrize("mode", ["adapter", "full"])
@pytest.mark.parametrize(
    "compute",
    [
        {"checkpointing": "full"},
        {"checkpointing": "selective"},
        {"checkpointing": "full", "offload": True},
        {"checkpointing": "full", "compiled": True},
    ],
    ids=lambda each: " ".join(map(str, each)),
)
def test_gradients_are_those_without_also_when_other_roles_act_before_the_backward_pass(method, mode, compute):
    settings = {"compile": "eager"} if compute.pop("compiled", False) else {}
    plain, wrapped = method({}, mode), method(compute, mode, **settings)
    batch = plain.data.batch(plain.draws(0))

    def others():
        x, sigma = batch.latents, torch.full((4,), 0.5)
        for role in (wrapped.teacher, wrapped.roles.below, wrapped.target):
            with torch.no_grad():
                wrapped.model(role, batch.conditions)(x, sigma)
        features = wrapped.teacher(x.requires_grad_(), 1000 * sigma, batch.conditions, 1)[1]
        features.velocities[0].sum().backward()
        x.requires_grad_(False)

    expected, found = gradients(plain, batch), gradients(wrapped, batch, others)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
        assert gradient.abs().sum() > 0, name


def test_what_a_checkpointed_block_computes_again_is_the_role_of_the_call(method):
    """The trap: adapters that are looked up in the backward pass are those of whoever was asked last."""
    wrapped = method({"checkpointing": "full"})
    batch = wrapped.data.batch(wrapped.draws(0))
    expected = gradients(wrapped, batch)
    with wrapped.student.network.having(()):
        found = gradients(wrapped, batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_checkpointed_network_keeps_less_for_its_backward_pass(method):
    def kept(compute):
        made, sizes = method(compute), []
        batch = made.data.batch(made.draws(0))
        frozen = {p.data_ptr() for p in made.student.network.parameters()}

        def pack(tensor):
            if tensor.data_ptr() not in frozen:
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made.model(made.student, batch.conditions)(batch.latents, torch.full((4,), 0.5))
        return sum(sizes)

    assert kept({"checkpointing": "full"}) < 0.5 * kept({"checkpointing": "none"})


def test_selective_checkpoints_keep_the_attention(method):
    """The backward pass of full ones attends once more in every attention of every block."""

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal attended
            attended += "_scaled_dot_product" in str(function) and "backward" not in str(function)
            return function(*args, **(kwargs or {}))

    counts = []
    for kind in ("none", "selective", "full"):
        made, attended = method({"checkpointing": kind}), 0
        with Count():
            gradients(made, made.data.batch(made.draws(0)))
        counts.append(attended)
    assert counts == [6, 6, 12]


def test_offloaded_weights_are_on_the_device_only_while_their_block_runs(trainer):
    network = trainer("semantic", ADAPTER).method.student.network
    place(network, torch.device("cpu"), ComputeConfig(offload=True, checkpointing="full"))
    frozen = {id(p): p.data_ptr() for p in network.blocks[0].parameters() if not p.requires_grad}
    trained = {id(p): p.data_ptr() for p in network.blocks[0].parameters() if p.requires_grad}
    seen = []
    inner = network.blocks[0].forward

    def watched(*args, **kwargs):
        seen.append({id(p): p.data_ptr() for p in network.blocks[0].parameters()})
        return inner(*args, **kwargs)

    network.blocks[0].forward = watched
    prepare(network, ComputeConfig(offload=True, checkpointing="full"), None, torch.device("cpu"))
    network.blocks[0](torch.randn(1, 4, 24), torch.randn(1, 2, 24), torch.randn(1, 6, 24), None)
    assert len(seen) == 1 and all(seen[0][key] != place for key, place in frozen.items())
    assert all(seen[0][key] == place for key, place in trained.items())
    assert frozen == {id(p): p.data_ptr() for p in network.blocks[0].parameters() if not p.requires_grad}


def test_weights_that_come_and_go_need_checkpoints(tmp_path):
    with pytest.raises(ConfigError, match="compute.offload=true needs compute.checkpointing=full"):
        build(Config, {"output": str(tmp_path), "compute": {"offload": True}})


def test_selective_checkpoints_are_not_compiled(tmp_path):
    with pytest.raises(ConfigError, match="compute.checkpointing=selective cannot see into compiled blocks"):
        build(Config, {"output": str(tmp_path), "compile": "eager", "compute": {"checkpointing": "selective"}})
