"""Moving averages, and lending a network other values."""

import pytest
import torch
from torch import nn

from training.networks.average import MovingAverage, copied, exchanged


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_an_average_moves_by_its_decay(network):
    parameters = dict(network.named_parameters())
    average, start = MovingAverage(parameters, 0.75), copied(parameters)
    nn.init.ones_(network.weight)
    average.update(0)
    torch.testing.assert_close(average.values["weight"], 0.75 * start["weight"] + 0.25)
    assert torch.equal(average.values["bias"], start["bias"])


def test_a_warmed_average_has_a_short_memory_at_first(network):
    average = MovingAverage(dict(network.named_parameters()), 0.75, warm_up=True)
    start = average.values["weight"].clone()
    nn.init.ones_(network.weight)
    average.update(0)
    torch.testing.assert_close(average.values["weight"], 0.1 * start + 0.9)
    average.values["weight"].zero_()
    average.update(1000)
    torch.testing.assert_close(average.values["weight"], torch.full((2, 3), 0.25))


def test_an_average_lives_where_it_is_told(network):
    home = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    average = MovingAverage(dict(network.named_parameters()), 0.5, home)
    average.update(0)
    torch.testing.assert_close(home["weight"], 0.5 * network.weight)
    assert average.values is home and average.tensors()["bias"] is home["bias"]


def test_exchanged_values_come_back_bit_for_bit_also_after_an_error(network):
    parameters = dict(network.named_parameters())
    own, other = copied(parameters), {"bias": torch.tensor([5.0, -0.0])}
    with pytest.raises(KeyError), exchanged(parameters, other):
        assert network.bias.tolist() == [5.0, 0.0] and torch.equal(network.weight, own["weight"])
        assert torch.equal(other["bias"], own["bias"])
        raise KeyError
    assert torch.equal(network.bias, own["bias"]) and network.bias.requires_grad
    assert other["bias"].tolist() == [5.0, -0.0]


def test_an_exchange_before_the_backward_pass_is_noticed(network):
    loss = network(torch.ones(1, 3, requires_grad=True)).square().sum()
    with exchanged(dict(network.named_parameters()), {"weight": torch.zeros(2, 3)}):
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
