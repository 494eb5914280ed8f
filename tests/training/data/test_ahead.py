"""Batches that are made ahead are the same batches."""

import threading

import pytest
import torch

from training.config import DataConfig
from training.data.ahead import ReadAhead
from training.data.shapes import ShapesData
from training.run.draws import Draws


def of(iteration):
    return Draws.of(0, iteration, 2)


def test_batches_read_ahead_are_bit_equal_and_made_in_a_thread():
    data, threads = ShapesData(DataConfig(batch_size=2)), []
    plain = [data.batch(of(iteration)) for iteration in range(3)]
    make = data.batch
    data.batch = lambda draws: (threads.append(threading.current_thread().name), make(draws))[1]
    ahead = ReadAhead(data)
    for iteration, expected in enumerate(plain):
        batch = ahead.batch(of(iteration))
        assert torch.equal(batch.latents, expected.latents)
        assert torch.equal(batch.conditions.text, expected.conditions.text)
        # a validation looks at another iteration in between, and what is awaited stays so
        assert torch.equal(ahead.batch(of(0)).latents, plain[0].latents)
    ahead.reader.shutdown()  # waits for the batch that nobody asked for
    assert len([name for name in threads if name.startswith("batches")]) >= 3
    assert ahead.latent_shape == data.latent_shape


def test_after_a_step_back_it_goes_on_from_there():
    """Two batches are made when they are asked for, the others ahead, and all are the right ones."""
    data, made = ShapesData(DataConfig(batch_size=2)), []
    make = data.batch

    def noted(draws):
        made.append((draws.iteration, threading.current_thread().name.startswith("batches")))
        return make(draws)

    data.batch = noted
    ahead = ReadAhead(data)
    for iteration in [*range(9), *range(3, 12)]:
        assert torch.equal(ahead.batch(of(iteration)).latents, make(of(iteration)).latents)
        if iteration == 6:  # a validation
            assert torch.equal(ahead.batch(of(0)).latents, make(of(0)).latents)
    ahead.reader.shutdown()
    assert sorted(iteration for iteration, in_thread in made if in_thread) == sorted([*range(1, 10), *range(5, 13)])
    assert sorted(iteration for iteration, in_thread in made if not in_thread) == [0, 0, 0, 3, 4]


def test_what_goes_wrong_in_the_thread_is_raised_by_the_iteration_it_concerns():
    data = ShapesData(DataConfig(batch_size=2))
    make = data.batch

    def fails(draws):
        if draws.iteration == 1:
            raise OSError("the disk is gone")
        return make(draws)

    data.batch = fails
    ahead = ReadAhead(data)
    ahead.batch(of(0))
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.batch(of(1))


@pytest.mark.parametrize("stage", ["semantic", "detail"])
def test_a_run_that_reads_ahead_takes_the_same_steps(trainer, stage):
    one, other = (trainer(stage, compute={"read_ahead": each}).method for each in (True, False))
    assert isinstance(one.data, ReadAhead) and not isinstance(other.data, ReadAhead)
    assert [one.step(i) for i in range(3)] == [other.step(i) for i in range(3)]
