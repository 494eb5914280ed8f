"""The boundary between the experts: published numbers, and laws for every schedule."""

import dataclasses
import math
import pickle
import re

import pytest
import torch
from harness.schedules import COG, EVERY, FLOW, HY, OFFICIAL, WAN, host_sigmas, schedules
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.families.presets import preset
from dcm_core.schedule.experts import ExpertSchedule, Threshold
from dcm_core.schedule.grid import NoiseGrid


class TestBoundary:
    @pytest.mark.parametrize(("schedule", "kappa", "first"), [(HY, 0.981763, 38), (WAN, 0.975410, 35)])
    def test_published_ranges_and_end_points(self, schedule, kappa, first):
        assert schedule.kappa_sigma == pytest.approx(kappa, abs=5e-7)
        assert schedule.grid.previous(first) == schedule.kappa_sigma
        assert schedule.grid.previous(0) == schedule.grid.sigma_min
        assert schedule.training_range("semantic") == range(first, 50)
        assert schedule.training_range("detail") == range(first)

    @pytest.mark.parametrize(
        ("family", "timestep", "detail"),
        [
            ("hunyuan_video", 981.8, True),
            ("hunyuan_video", 981.763, True),
            ("hunyuan_video", 982.0, False),
            ("hunyuan_video", 983.68, False),
            ("wan", 975.4, True),
            ("wan", 977.6, True),
            ("wan", 978.0, True),
            ("wan", 979.0, False),
            ("wan", 979.75, False),
        ],
    )
    def test_official_switch_is_the_published_integer_threshold(self, family, timestep, detail):
        sigma = torch.tensor(timestep) / 1000
        assert bool(OFFICIAL[family].is_detail(sigma)) is detail
        # The published code compares the truncated timestep: at most 981, at most 978.
        assert detail is (int(timestep) <= {"hunyuan_video": 981, "wan": 978}[family])

    @pytest.mark.parametrize("sigma", [0.98176295, 0.9818, 0.98176292])
    @pytest.mark.parametrize("schedule", [HY, OFFICIAL["hunyuan_video"]])
    def test_every_spelling_of_kappa_is_a_detail_step(self, schedule, sigma):
        assert schedule.is_detail(torch.tensor([sigma], dtype=torch.float32)).all()

    def test_aligned_switch_is_the_midpoint_to_the_next_grid_point(self):
        assert HY.switch_sigma == pytest.approx((0.981763 + 0.983680) / 2, abs=1e-6)
        assert WAN.switch_sigma == pytest.approx((0.975410 + 0.977636) / 2, abs=1e-6)

    def test_no_dtype_moves_the_switch(self):
        above = torch.tensor(0.984375, dtype=torch.bfloat16)  # what bfloat16 would round the switch to
        assert not HY.is_detail(above)
        official = torch.tensor(0.982)
        assert not OFFICIAL["hunyuan_video"].is_detail(official)
        assert not OFFICIAL["hunyuan_video"].is_detail(official.double())

    def test_the_hosts_kappa_lies_above_the_exact_one(self):
        host_kappa = host_sigmas(17.0)[759]
        assert host_kappa.item() > HY.kappa_sigma  # so that a comparison with kappa itself may fail
        assert HY.is_detail(host_kappa)

    @pytest.mark.parametrize("shift", [3.0, 5.0, 8.0, 17.0])
    def test_host_float32_grid_points_fall_on_their_side(self, shift):
        on_grid = host_sigmas(shift)[19::20]
        index = torch.arange(50)
        for kappa in range(49):
            schedule = ExpertSchedule(NoiseGrid(shift, 50), kappa)
            assert torch.equal(schedule.is_detail(on_grid), index <= kappa)

    @pytest.mark.parametrize("schedule", FLOW)
    @given(shift=st.floats(0.5, 40))
    def test_the_split_does_not_move_with_the_hosts_shift(self, schedule, shift):
        sigmas = torch.cat([host_sigmas(shift).flip(0), torch.zeros(1)])
        u = torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
        exact = shift * u / (1 + (shift - 1) * u)
        certain = (exact - schedule.switch_sigma).abs() > 1e-6  # float32 decides the rest
        is_detail = schedule.is_detail(sigmas[:-1])
        assert torch.equal(is_detail[certain], (exact < schedule.switch_sigma)[certain])
        assert schedule.split(sigmas) == (int((~is_detail).sum()), int(is_detail.sum()))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_each_sample_has_its_own_expert_in_every_dtype(self, dtype):
        sigma = torch.tensor([[1.0, 0.992], [0.9, 0.0]], dtype=dtype)
        assert WAN.is_detail(sigma).tolist() == [[False, False], [True, True]]

    @given(schedules())
    def test_pure_noise_is_semantic_and_kappa_is_detail(self, schedule):
        assert not schedule.is_detail(schedule.grid.sigma_max)
        assert schedule.is_detail(schedule.kappa_sigma)
        assert not schedule.is_detail(schedule.grid.sigma(schedule.grid.points - 1))
        ranges = [*schedule.training_range("detail"), *schedule.training_range("semantic")]
        assert ranges == list(range(schedule.grid.points))

    def test_kappa_by_hand(self):
        assert HY.with_kappa(34) == WAN
        assert HY.with_kappa(0.975) == WAN
        assert HY.with_kappa(0.982) is HY
        moved = OFFICIAL["wan"].with_kappa(37)
        assert moved == HY
        assert OFFICIAL["wan"].with_kappa(34) is OFFICIAL["wan"]

    @given(schedules())
    def test_kappa_by_its_own_sigma_stays_where_it_is(self, schedule):
        time = float(schedule.grid.curve.timestep(torch.tensor(schedule.kappa_sigma))) / 1000
        assert schedule.with_kappa(time) is schedule

    def test_a_cut_at_sigma_1_says_where_to_cut(self):
        with pytest.raises(ValueError, match=r"sigma 1.*Choose 0 to 48.*0\.2576 to 0\.9988"):
            HY.with_kappa(49)

    @pytest.mark.parametrize("kappa", [1.0, 0.9999, 1.1])
    @pytest.mark.parametrize("schedule", [HY, OFFICIAL["wan"], COG], ids=["hunyuan_video", "official", "cogvideox"])
    def test_kappa_at_pure_noise_is_answered_as_it_was_typed(self, schedule, kappa):
        with pytest.raises(ValueError, match=rf"^kappa is {kappa:g}: .* A cut at pure noise") as caught:
            schedule.with_kappa(kappa)
        said = str(caught.value)
        assert "kappa_index" not in said
        # Both ends that it names can be typed.
        lowest, highest = re.search(r"from ([\d.]+) to ([\d.]+)\.", said).groups()
        assert schedule.with_kappa(float(lowest)).kappa_index == 0
        assert schedule.with_kappa(float(highest)).kappa_index == schedule.grid.points - 2

    @pytest.mark.parametrize("kappa", [-1, 50, 0.1, 1.1, -0.5, math.nan, math.inf])
    def test_kappa_off_the_grid(self, kappa):
        with pytest.raises(ValueError, match=r"grid.*(Choose|choose)"):
            HY.with_kappa(kappa)

    @pytest.mark.parametrize("kappa", [True, None, "37"])
    def test_kappa_that_is_no_number(self, kappa):
        with pytest.raises(ValueError, match="kappa_index must be a whole number"):
            HY.with_kappa(kappa)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"lists": {1: (1.0,)}}, "need the published switch"),
            ({"switch": Threshold(900.0)}, "above kappa"),
            ({"switch": Threshold(1001.0)}, "up to 1000"),
            ({"switch": Threshold(math.nan)}, "finite"),
            ({"switch": Threshold(982.0), "lists": {3: (1.0, 0.9)}}, "has 2 values"),
            ({"switch": Threshold(982.0), "lists": {2: (0.9, 1.0)}}, "must fall"),
        ],
    )
    def test_contradictory_schedules(self, changes, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(HY, **changes)

    def test_unknown_expert(self):
        with pytest.raises(ValueError, match="'detial'"):
            HY.training_range("detial")


class TestPresets:
    def test_unknown_family_lists_the_known(self):
        with pytest.raises(ValueError, match="'mochi'.*cogvideox, cogvideox_2b, hunyuan_video, shapes, wan"):
            preset("mochi")

    def test_no_official_schedule_without_published_weights(self):
        for family in ("shapes", "cogvideox"):
            with pytest.raises(ValueError, match='"aligned"'):
                preset(family, "official")

    def test_unknown_rule(self):
        with pytest.raises(ValueError, match="'oficial'"):
            preset("wan", "oficial")

    def test_schedules_can_be_keys_and_travel_between_processes(self):
        for schedule in EVERY:
            assert {schedule: 1}[pickle.loads(pickle.dumps(schedule))] == 1
