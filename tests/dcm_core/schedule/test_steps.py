"""The sigmas of an N-step run: published lists, counts per expert, and later starts."""

import math

import pytest
import torch
from harness.schedules import EVERY, HY, OFFICIAL, WAN, schedules
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.schedule.curves import shift_sigma


class TestSigmas:
    @pytest.mark.parametrize("schedule", [HY, OFFICIAL["hunyuan_video"]])
    @pytest.mark.parametrize(
        "published",
        [
            (1.0, 0.992, 0.9818, 0.9124, 0.0),
            (1.0, 0.996259, 0.992042, 0.987252, 0.981763, 0.959144, 0.912429, 0.809524, 0.0),
        ],
    )
    def test_hunyuan_lists(self, schedule, published):
        sigmas = schedule.sigmas(len(published) - 1)
        assert torch.allclose(sigmas, torch.tensor(published), rtol=0, atol=1e-4)
        assert schedule.split(sigmas) == (len(published) // 2, len(published) // 2)

    def test_wan_official_six_steps_bit_for_bit(self):
        published = torch.tensor([1000, 992, 982, 949, 905, 810, 0]) / 1000
        sigmas = OFFICIAL["wan"].sigmas(6)
        assert sigmas.dtype == torch.float32
        assert torch.equal(sigmas, published)
        assert OFFICIAL["wan"].split(sigmas) == (3, 3)
        assert torch.equal(OFFICIAL["wan"].sigmas(6, semantic_steps=3), published)
        assert OFFICIAL["wan"].split(OFFICIAL["wan"].sigmas(6, semantic_steps=2)) == (2, 4)

    def test_hunyuan_official_four_steps_bit_for_bit(self):
        expected = torch.tensor([1.0, 0.992, 0.9818, 0.9124, 0.0])
        assert torch.equal(OFFICIAL["hunyuan_video"].sigmas(4), expected)

    def test_wan_aligned_lands_on_kappa_where_official_jumps_past(self):
        kappa = torch.tensor(WAN.kappa_sigma, dtype=torch.float32)
        assert WAN.sigmas(6)[3] == kappa
        assert kappa not in OFFICIAL["wan"].sigmas(6)
        expected = torch.tensor([1.0, 0.98892, 0.97541, 0.90533, 0.0])
        assert torch.allclose(WAN.sigmas(4), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("schedule", EVERY)
    @pytest.mark.parametrize("steps", range(1, 51))
    def test_one_to_fifty_steps(self, schedule, steps):
        sigmas = schedule.sigmas(steps)
        assert sigmas.dtype == torch.float32
        assert len(sigmas) == steps + 1
        assert sigmas[0] == torch.tensor(schedule.grid.sigma_max, dtype=torch.float32)
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()
        semantic, detail = schedule.split(sigmas)
        if steps == 1:
            assert (semantic, detail) == (1, 0)
        elif steps // 2 + 1 < min(schedule.kappa_index, schedule.grid.points - 1 - schedule.kappa_index):
            assert (semantic, detail) == (steps // 2, steps - steps // 2)
        else:
            assert min(semantic, detail) >= 1

    @given(schedules(), st.data())
    def test_any_count_the_grid_can_give(self, schedule, data):
        points = schedule.grid.points
        steps = data.draw(st.integers(2, points), label="steps")
        sigmas = schedule.check(schedule.sigmas(steps))
        semantic, detail = schedule.split(sigmas)
        assert semantic + detail == steps
        assert semantic >= 1
        assert detail >= 1
        if schedule.switch.rule == "aligned":
            assert sigmas[semantic] == torch.tensor(schedule.kappa_sigma, dtype=torch.float32)
        if steps not in schedule.lists:
            assert torch.isin(sigmas[:-1], schedule.grid.sigmas.float()).all()

    def test_all_the_points_of_the_grid(self):
        for schedule in EVERY:
            assert torch.equal(schedule.sigmas(50)[:-1], schedule.grid.sigmas.float().flip(0))

    @given(schedules(), st.data())
    def test_manual_count_is_kept_or_refused(self, schedule, data):
        points = schedule.grid.points
        steps = data.draw(st.integers(1, points + 3), label="steps")
        wanted = data.draw(st.integers(-1, points + 3), label="semantic_steps")
        detail_points = int(schedule.is_detail(schedule.grid.sigmas).sum())
        possible = 1 <= wanted <= points - detail_points and 1 <= steps - wanted <= detail_points
        if possible:
            assert schedule.split(schedule.sigmas(steps, wanted)) == (wanted, steps - wanted)
        else:
            with pytest.raises(ValueError, match="use "):
                schedule.sigmas(steps, wanted)

    def test_spacing_is_uniform_on_each_side(self):
        sigmas = HY.sigmas(10, semantic_steps=4)
        indices = [int((HY.grid.sigmas - sigma).abs().argmin()) for sigma in sigmas[:-1]]
        assert indices == [49, 46, 43, 40, 37, 31, 24, 18, 12, 5]

    @pytest.mark.parametrize("steps", [0, -1, 51, 2.5, 4.0, math.nan, True, None, "4"])
    def test_impossible_steps(self, steps):
        for schedule in (HY, OFFICIAL["hunyuan_video"]):
            with pytest.raises(ValueError, match="steps"):
                schedule.sigmas(steps)

    @pytest.mark.parametrize(
        ("steps", "semantic", "message"),
        [
            (4, 4, "use 1 to 3"),
            (4, 0, "use 1 to 3"),
            (4, -1, "use 1 to 3"),
            (20, 13, r"12 point\(s\) for the semantic.*use 1 to 12"),
            (45, 3, r"38 for the detail.*use 7 to 12"),
            (1, 1, "use 2 or more"),
            (4, 1.0, "whole number"),
            (4, math.nan, "whole number"),
        ],
    )
    def test_impossible_semantic_steps_say_what_is_possible(self, steps, semantic, message):
        with pytest.raises(ValueError, match=message):
            HY.sigmas(steps, semantic)


class TestDenoise:
    @given(schedules(), st.integers(1, 50), st.floats(0.01, 1, exclude_max=True))
    def test_starts_where_the_solver_has_that_fraction_left(self, schedule, steps, denoise):
        grid = schedule.grid
        left = max(1, round(denoise * grid.points))
        if steps > left:
            with pytest.raises(ValueError, match=f"at most {left}"):
                schedule.sigmas(steps, denoise=denoise)
            return
        sigmas = schedule.check(schedule.sigmas(steps, denoise=denoise))
        assert len(sigmas) == steps + 1
        assert sigmas[-1] == 0
        if not (steps in schedule.lists and left == grid.points):
            assert sigmas[0] == torch.tensor(grid.sigma(left - 1), dtype=torch.float32)
        semantic, detail = schedule.split(sigmas)
        assert (semantic > 0) == (not schedule.is_detail(sigmas[0]))
        assert detail or steps == 1
        if semantic and detail and schedule.switch.rule == "aligned":
            assert sigmas[semantic] == torch.tensor(schedule.kappa_sigma, dtype=torch.float32)

    def test_keeps_the_pace_of_a_whole_run(self):
        splits = {denoise: HY.split(HY.sigmas(8, denoise=denoise)) for denoise in (1.0, 0.94, 0.88, 0.82, 0.76, 0.5)}
        assert splits == {1.0: (4, 4), 0.94: (3, 5), 0.88: (2, 6), 0.82: (1, 7), 0.76: (0, 8), 0.5: (0, 8)}

    @pytest.mark.parametrize("denoise", [0.9, 0.5])
    def test_a_published_list_is_for_whole_runs(self, denoise):
        sigmas = OFFICIAL["wan"].sigmas(6, denoise=denoise)
        assert sigmas[0].item() == pytest.approx(shift_sigma(denoise, 17.0))

    def test_a_start_just_above_the_switch_still_lands_on_kappa(self):
        sigmas = HY.sigmas(4, denoise=0.78)
        assert HY.split(sigmas) == (1, 3)
        assert sigmas[1].item() == pytest.approx(HY.kappa_sigma)

    def test_four_steps_notice_a_denoise_close_to_one(self):
        assert HY.sigmas(4, denoise=0.9)[0] < HY.sigmas(4, denoise=0.95)[0] < 1

    def test_a_manual_count_works_from_a_later_start(self):
        assert HY.split(HY.sigmas(4, semantic_steps=3, denoise=0.9)) == (3, 1)
        with pytest.raises(ValueError, match="larger denoise"):
            HY.sigmas(4, semantic_steps=1, denoise=0.5)
        with pytest.raises(ValueError, match="use 1 to 2"):
            HY.sigmas(4, semantic_steps=3, denoise=0.8)

    @pytest.mark.parametrize("denoise", [0, -0.1, 1.01, math.nan, math.inf, "1", None])
    def test_impossible_denoise(self, denoise):
        with pytest.raises(ValueError, match="denoise"):
            HY.sigmas(4, denoise=denoise)
