"""CogVideoX's noise levels against diffusers' scheduler, and the laws they share with flow matching."""

import numpy as np
import pytest
import torch
from harness.schedules import COG, COG_2B, diffusers_ddim
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.families.presets import FAMILIES
from dcm_core.schedule.experts import ExpertSchedule, Threshold
from dcm_core.schedule.grid import NoiseGrid

ZERO_SNR = [COG, COG_2B]


def host_table() -> torch.Tensor:
    """ComfyUI's 1000 sigmas for every CogVideoX, in the float32 it keeps them in; ascending."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    sigmas = ((1 - (1 - betas).cumprod(0)) / (1 - betas).cumprod(0)) ** 0.5
    root = (1 / (sigmas**2 + 1)).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    alpha = ((root - last) * first / (first - last)) ** 2
    alpha[-1] = 4.8973451890853435e-08
    return (((1 - alpha) / alpha) ** 0.5).float()


@pytest.mark.parametrize("schedule", ZERO_SNR)
def test_the_levels_are_those_of_the_released_models(schedule):
    theirs = diffusers_ddim(schedule.grid.shift).alphas_cumprod.double()
    sigmas = torch.tensor(schedule.grid.curve.table, dtype=torch.float64)
    ours = 1 / (1 + sigmas**2)
    assert torch.allclose(ours[:-1], theirs[:-1], rtol=1e-9, atol=0)
    assert theirs[-1] == 0 < ours[-1] < 1e-7


@pytest.mark.parametrize("points", [2, 3, 4, 8, 16, 25, 50, 80, 125, 500])
def test_a_grid_lies_on_the_trailing_timesteps(points):
    grid = NoiseGrid(1.0, points, "v_prediction")
    theirs = np.round(np.arange(1000, 0, -1000 / points))[:points][::-1] - 1
    assert grid.curve.timestep(grid.sigmas).tolist() == theirs.tolist()
    steps = diffusers_ddim(1.0)
    steps.set_timesteps(50)
    assert COG.grid.curve.timestep(COG.grid.sigmas).flip(0).tolist() == steps.timesteps.tolist()


def test_the_host_has_the_same_levels_for_the_5b_models():
    host = host_table()
    assert torch.allclose(torch.tensor(COG.grid.curve.table).float(), host, rtol=1e-5)
    assert COG.grid.curve.timestep(host).tolist() == list(range(1000))


@pytest.mark.parametrize("schedule", ZERO_SNR)
def test_timesteps_and_sigmas_gate_alike_and_float32_keeps_them_apart(schedule):
    """Kappa is timestep 759 and the next point 779: the detail expert has every timestep up to 769."""
    table = torch.tensor(schedule.grid.curve.table).float()
    for wobble in (1 - 1e-6, 1.0, 1 + 1e-6):
        assert torch.equal(schedule.is_detail(table * wobble), torch.arange(1000) <= 769)
    assert schedule.kappa_sigma == schedule.grid.curve.table[759]


@given(st.floats(0.01, 100), st.integers(2, 500), st.data())
def test_every_boundary_parts_the_timesteps_midway(shift, points, data):
    grid = NoiseGrid(shift, points, "v_prediction")
    kappa = data.draw(st.integers(0, points - 2))
    schedule = ExpertSchedule(grid, kappa)
    steps = grid.curve.timestep(grid.sigmas)
    is_detail = schedule.is_detail(torch.tensor(grid.curve.table).float())
    assert is_detail.sum() == (int(steps[kappa]) + int(steps[kappa + 1])) // 2 + 1
    assert torch.equal(schedule.is_detail(grid.sigmas), torch.arange(points) <= kappa)


@given(st.floats(0.01, 100), st.integers(2, 500))
def test_levels_rise_from_above_sigma_min_to_a_finite_end(shift, points):
    grid = NoiseGrid(shift, points, "v_prediction")
    levels = torch.cat([torch.tensor([grid.sigma_min]), grid.sigmas])
    assert (levels.diff() > 0).all()
    assert levels[-1] == grid.sigma_max < torch.inf
    assert (torch.tensor(grid.curve.table).diff() > 0).all()


@pytest.mark.parametrize("points", [1, 501, 999])
def test_a_grid_cannot_be_finer_than_its_timesteps(points):
    with pytest.raises(ValueError, match="use a number from 2 to 500"):
        NoiseGrid(1.0, points, "v_prediction")


@pytest.mark.parametrize("family", FAMILIES)
def test_time_there_and_back(family):
    grid = FAMILIES[family].schedule.grid
    u = [grid.curve.u(grid.sigma(i)) for i in range(50)]
    assert u == pytest.approx([(i + 1) / 50 for i in range(50)])
    assert grid.curve.u(0.0) == 0


def test_kappa_by_hand_is_a_timestep_over_1000():
    assert COG.with_kappa(0.76) is COG
    assert COG.with_kappa(0.5).kappa_index == 24  # timestep 499
    with pytest.raises(ValueError, match=r"kappa is 4.9: .*timestep / 1000 from 0\.0190 to 0\.9790"):
        COG.with_kappa(4.9)
    with pytest.raises(ValueError, match=r"timestep 999, a cut.*timestep from 19 to 979"):
        COG.with_kappa(49)


def test_no_threshold_without_published_weights():
    with pytest.raises(ValueError, match="flow matching"):
        ExpertSchedule(COG.grid, 37, Threshold(800.0))
