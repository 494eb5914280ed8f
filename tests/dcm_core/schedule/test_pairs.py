"""Boundaries of Wan 2.2's pairs, and the published noise levels of speed LoRAs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.families.presets import find_family
from dcm_core.schedule.pairs import PAIR_NAMES, pair_schedule
from dcm_core.schedule.speed_loras import SPEED_PRESETS, speed_sigmas

WAN22 = find_family("wan").pair


@pytest.mark.parametrize("boundary", [0.875, 0.9])
def test_wan22_gives_a_step_on_the_boundary_to_the_high_noise_model(boundary):
    assert boundary in (WAN22.text, WAN22.image)
    timesteps = torch.tensor([1000, 1000 * boundary + 1, 1000 * boundary, 1000 * boundary - 1, 1])
    is_low = pair_schedule(boundary, WAN22.grid, WAN22.lists).is_detail(timesteps / 1000)
    assert is_low.tolist() == [timestep < 1000 * boundary for timestep in timesteps.tolist()]
    assert is_low.tolist() == [False, False, False, True, True]


@given(st.integers(93, 1000))
def test_a_typed_boundary_is_met_exactly(thousandths):
    boundary = thousandths / 1000
    schedule = pair_schedule(boundary, WAN22.grid, WAN22.lists)
    assert not schedule.is_detail(torch.tensor(boundary))
    assert schedule.is_detail(torch.tensor(boundary - 1e-6))


@pytest.mark.parametrize("boundary", [0.875, 0.9])
@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6, 8, 20, 40])
def test_both_models_get_their_share(boundary, steps):
    schedule = pair_schedule(boundary, WAN22.grid, WAN22.lists)
    sigmas = schedule.sigmas(steps)
    assert len(sigmas) == steps + 1 and sigmas[0] == 1 and sigmas[-1] == 0
    high, low = schedule.split(sigmas)
    assert abs(high - low) <= 1 or (steps, high, low) in {(8, 3, 5), (40, 18, 22)}


def test_a_run_of_a_pair_in_words():
    schedule = pair_schedule(0.875, WAN22.grid, WAN22.lists)
    line = schedule.describe(schedule.sigmas(4), PAIR_NAMES)
    assert line == "high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625"
    assert "one step is the high-noise model's" in schedule.describe(schedule.sigmas(1), PAIR_NAMES)


@pytest.mark.parametrize("boundary", [0.0, 0.09, 1.01, float("nan")])
def test_a_boundary_that_leaves_a_model_nothing_to_do(boundary):
    with pytest.raises(ValueError, match="boundary"):
        pair_schedule(boundary, WAN22.grid, WAN22.lists)


def test_a_boundary_at_pure_noise_is_answered_as_it_was_typed():
    with pytest.raises(ValueError, match=r"^boundary is 1: .*from 0\.0190 to 0\.9790\. A cut at pure noise"):
        pair_schedule(1.0, find_family("cogvideox").schedule.grid)


def test_the_published_lists():
    """As their authors wrote them down, rounded as they did."""
    lightning = [1000.0, 937.5001, 833.3333, 625.0]
    eight = [1000.0, 972.2224, 937.5001, 892.8571, 833.3333, 750.0001, 625.0, 416.6667]
    for name, timesteps in [
        ("wan2.2 lightning", lightning),
        ("wan2.2 lightning", eight),
        ("wan2.1 lightx2v", lightning),
        ("wan2.1 causvid 14B", [999, 934, 862, 756, 603, 410, 250, 140, 74]),
        ("wan2.1 causvid 1.3B", [1000, 750, 500, 250]),
    ]:
        sigmas = speed_sigmas(name, len(timesteps))
        assert torch.allclose(1000 * sigmas, torch.tensor([*timesteps, 0.0]).float(), atol=5e-4)
    assert all(preset.source.startswith("https://") for preset in SPEED_PRESETS.values())


def test_lists_that_were_not_published():
    with pytest.raises(ValueError, match="published for 4 or 8 steps, not for 6"):
        speed_sigmas("wan2.2 lightning", 6)
    with pytest.raises(ValueError, match="unknown: known are wan2.2 lightning"):
        speed_sigmas("wan2.2", 4)
