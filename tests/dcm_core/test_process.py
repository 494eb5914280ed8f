"""How latents and noise are mixed, in both kinds of process, against the formulas written out."""

import math

import pytest
import torch
from harness.schedules import COG

from dcm_core.process import FLOW, process_of

V = process_of(COG.grid)
LEVELS = {FLOW: (0.1, 0.5), V: (0.3, 2.0)}


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 1, 2, 64, 64, dtype=torch.float64, generator=generator) for _ in range(3)]


def shares(process, sigma):
    return (1 - sigma, sigma) if process is FLOW else (math.cos(math.atan(sigma)), math.sin(math.atan(sigma)))


@pytest.mark.parametrize("process", LEVELS)
def test_noised_is_the_mix_of_its_level_for_numbers_and_per_sample(process, drawn):
    clean, noise, _ = drawn
    levels = torch.tensor(LEVELS[process], dtype=torch.float64)
    together = process.noised(clean, noise, levels)
    for row, sigma in enumerate(LEVELS[process]):
        a, b = shares(process, sigma)
        torch.testing.assert_close(together[row], a * clean[row] + b * noise[row])
        torch.testing.assert_close(process.noised(clean, noise, sigma)[row], together[row])


@pytest.mark.parametrize("process", LEVELS)
def test_a_jump_along_the_true_velocity_lands_on_the_mix_of_the_other_level(process, drawn):
    clean, noise, _ = drawn
    sigma, end = reversed(LEVELS[process])
    a, b = shares(process, sigma)
    velocity = noise - clean if process is FLOW else a * noise - b * clean
    landed = process.jump(process.noised(clean, noise, sigma), velocity, sigma, end)
    torch.testing.assert_close(landed, process.noised(clean, noise, end))


@pytest.mark.parametrize("process", LEVELS)
def test_the_velocity_between_two_states_is_the_one_whose_jump_leads_there(process, drawn):
    x, landed, _ = drawn
    levels = torch.tensor(LEVELS[process])
    velocity = process.velocity(x, landed, levels.flip(0), levels)
    torch.testing.assert_close(process.jump(x, velocity, levels.flip(0), levels), landed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process, levels", [(FLOW, (1.0, 0.5)), (V, (COG.grid.sigma_max, 5.7)), (V, (7.0, 5.7))])
def test_landings_over_their_interval_differ_as_their_velocities_do(process, levels, drawn):
    """From pure noise too, whose sigma is thousands in v-prediction: no level weighs more than another."""
    x, velocity, other = drawn
    there, elsewhere = (process.jump(x, each, *levels) for each in (velocity, other))
    torch.testing.assert_close((there - elsewhere) / process.interval(*levels), other - velocity)


@pytest.mark.parametrize("process", LEVELS)
def test_renoised_cannot_be_told_from_noised_by_its_noise(process, drawn):
    """Clean part and the whole of the noise are those of the higher level; the linear sum falls short of it."""
    clean, first, second = drawn
    sigma, higher = LEVELS[process]
    a, b = shares(process, higher)
    x = process.noised(clean, first, sigma)
    noise = process.renoised(x, second, sigma, higher) - a * clean
    assert noise.std() == pytest.approx(b, rel=0.02)
    short = process.renoised(x, second, sigma, higher, linear=True) - a * clean
    assert short.std() < 0.95 * b
    torch.testing.assert_close(process.renoised(x, second, sigma, sigma), x)


def test_the_published_renoising_is_the_linear_one(drawn):
    clean, first, second = drawn
    x = FLOW.noised(clean, first, 0.1)
    expected = ((1 - 0.5) * x + (0.5 - 0.1) * second) / (1 - 0.1)
    torch.testing.assert_close(FLOW.renoised(x, second, 0.1, 0.5, linear=True), expected)


def test_timesteps_are_those_of_the_grid():
    assert FLOW.timestep(torch.tensor([0.25, 1.0])).tolist() == [250.0, 1000.0]
    assert V.timestep(torch.tensor([COG.grid.sigma_max])).tolist() == [999.0]
