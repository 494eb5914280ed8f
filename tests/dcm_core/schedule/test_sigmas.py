"""Sigmas of the user's own: what a sampler can run on, and parts of a run."""

import math

import pytest
import torch
from harness.schedules import COG, HY, host_sigmas
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.schedule.sigmas import check_sigmas, step_window


class TestLists:
    """Sigmas of the user's own."""

    @pytest.mark.parametrize("sigmas", [[1.0, 0.5, 0.0], (0.9, 0.3), torch.tensor([1.0, 0.98, 0.4])])
    def test_whole_and_partial_runs(self, sigmas):
        assert check_sigmas(sigmas).tolist() == pytest.approx(list(map(float, sigmas)))

    def test_tensors_pass_unchanged(self):
        sigmas = torch.tensor([1.0, 0.0], dtype=torch.float64)
        assert check_sigmas(sigmas) is sigmas

    @pytest.mark.parametrize("shift", [2.02, 3.0, 5.0, 8.0, 17.0, 6.7])
    def test_host_tables_pass(self, shift):
        check_sigmas(torch.cat([host_sigmas(shift).flip(0), torch.zeros(1)]))

    @pytest.mark.parametrize(
        ("sigmas", "message"),
        [
            ([1.0, 0.5, 0.6, 0.0], r"must fall.*sigmas\[1\] is 0.5 and sigmas\[2\] is 0.6"),
            ([1.0, 0.5, 0.5, 0.0], "must fall"),
            ([0.0, 0.5, 1.0], "must fall"),
            ([1000.0, 981.0, 0.0], r"sigmas\[0\] is 1000.0.*divide timesteps by 1000"),
            ([1.0, -0.1], r"sigmas\[1\] is -0.1"),
            ([1.0, math.nan, 0.0], r"sigmas\[1\] is nan"),
            ([math.inf, 0.0], r"sigmas\[0\] is inf"),
            ([1.0], "makes no step"),
            ([], "makes no step"),
            (torch.zeros(2, 2), "one list"),
            (torch.tensor([1, 0]), "floating-point"),
        ],
    )
    def test_lists_no_sampler_can_run_on(self, sigmas, message):
        for ask in (check_sigmas, HY.split, HY.describe, step_window):
            with pytest.raises(ValueError, match=message):
                ask(sigmas)

    def test_each_backbone_has_its_own_highest_noise_level(self):
        sigmas = COG.sigmas(4)
        assert torch.equal(COG.check(sigmas), sigmas)
        assert torch.equal(step_window(sigmas, 1, 3, COG.grid.sigma_max), sigmas[1 : 3 + 1])
        with pytest.raises(ValueError, match=r"sigmas\[0\] is 4518.*0..1 .divide timesteps"):
            HY.check(sigmas)
        with pytest.raises(ValueError, match=r"sigmas\[0\] is 5000.*0..4518.*use DCM Sigmas"):
            COG.check([5000.0, 0.0])

    def test_describe_names_the_timesteps_of_a_ddpm(self):
        assert COG.describe(COG.sigmas(4)) == "SemE 2 steps 999 879 | DetE 2 steps 759 379"
        assert COG.spell(COG.switch_sigma) == "timestep 769"
        assert HY.spell(HY.switch_sigma) == "sigma 0.9827"

    def test_describe(self):
        assert HY.describe(HY.sigmas(4)) == "SemE 2 steps 1.000 0.992 | DetE 2 steps 0.982 0.912"
        assert HY.describe(HY.sigmas(4), "no experts") == "no experts: 4 steps 1.000 0.992 0.982 0.912"
        assert HY.describe([1.0, 0.5, 0.0]) == "SemE 1 step 1.000 | DetE 1 step 0.500"
        assert HY.describe([0.9, 0.5, 0.0]) == "SemE 0 steps | DetE 2 steps 0.900 0.500"
        assert "12 steps 1.000 0.999 0.998 ... 0.984 | DetE 38 steps" in HY.describe(HY.sigmas(50))
        assert "2 or more use both" in HY.describe(HY.sigmas(1))
        assert HY.describe(step_window(HY.sigmas(4), 0, 1)) == "SemE 1 step 1.000 | DetE 0 steps"

    def test_windows_of_a_run(self):
        sigmas = HY.sigmas(4)
        assert torch.equal(step_window(sigmas), sigmas)
        assert torch.equal(step_window(sigmas, 0, 10_000), sigmas)
        assert torch.equal(step_window(sigmas, 1, 3), sigmas[1:4])
        assert HY.split(step_window(sigmas, 0, 2)) == (2, 0)
        assert HY.split(step_window(sigmas, 2)) == (0, 2)

    @given(st.integers(1, 50), st.data())
    def test_two_windows_join_to_the_whole_run(self, steps, data):
        sigmas = HY.sigmas(steps)
        cut = data.draw(st.integers(1, max(1, steps - 1)))
        if steps == 1:
            return
        first, second = step_window(sigmas, 0, cut), step_window(sigmas, cut)
        assert first[-1] == second[0]
        assert torch.equal(torch.cat([first, second[1:]]), sigmas)

    @pytest.mark.parametrize(
        ("start", "end", "message"),
        [
            (0, 0, "end_at_step is 0.*cut|use 1 to 4"),
            (2, 2, "use 3 to 4"),
            (3, 1, "use 4 to 4"),
            (4, None, "start_at_step is 4.*use 0 to 3"),
            (-1, None, "start_at_step is -1"),
            (0, -1, "end_at_step is -1"),
        ],
    )
    def test_windows_without_a_step(self, start, end, message):
        with pytest.raises(ValueError, match=message):
            step_window(HY.sigmas(4), start, end)
