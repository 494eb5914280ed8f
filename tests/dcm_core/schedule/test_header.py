"""A schedule in the header of an expert file."""

import json

import pytest
import torch
from harness.schedules import HY, OFFICIAL, schedules
from hypothesis import given

from dcm_core.schedule.header import read_schedule, write_schedule


class TestMetadata:
    @given(schedules())
    def test_round_trip_is_exact(self, schedule):
        fields = write_schedule(schedule)
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in fields.items())
        again = read_schedule({**fields, "dcm.expert": "detail", "modelspec.title": "x"})
        assert again == schedule
        assert again.switch_sigma == schedule.switch_sigma
        assert write_schedule(again) == fields

    def test_readers_without_dcm_find_the_lists(self):
        fields = write_schedule(OFFICIAL["wan"])
        assert json.loads(fields["dcm.sigmas.6"]) == [1.0, 0.992, 0.982, 0.949, 0.905, 0.81]
        assert torch.equal(torch.tensor(json.loads(write_schedule(HY)["dcm.sigmas.4"])), HY.sigmas(4)[:-1])

    @pytest.mark.parametrize("key", ["dcm.prediction", "dcm.grid", "dcm.shift", "dcm.kappa_index"])
    def test_a_missing_field_is_named(self, key):
        fields = write_schedule(HY)
        del fields[key]
        with pytest.raises(ValueError, match=f"no {key}"):
            read_schedule(fields)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("dcm.shift", "seventeen"),
            ("dcm.shift", "nan"),
            ("dcm.grid", "50.0"),
            ("dcm.grid", "9" * 5000),
            ("dcm.grid", "100000000"),
            ("dcm.prediction", "v"),
            ("dcm.kappa_index", "49"),
            ("dcm.kappa_index", "34"),
            ("dcm.kappa_sigma", "0.97541"),
            ("dcm.switch_sigma", "0.982"),
            ("dcm.switch_sigma", "nan"),
            ("dcm.rule", "newest"),
            ("dcm.rule", "official"),
            ("dcm.sigmas.4", "[1.0, 0.9, 0.8, 0.7]"),
            ("dcm.sigmas.4", "[1.0, 0.992042422]"),
            ("dcm.sigmas.4", "[NaN, 1, 1, 1]"),
            ("dcm.sigmas.4", "{"),
            ("dcm.sigmas.4", "5"),
            ("dcm.sigmas.4", "[" * 100_000),
            ("dcm.sigmas.0", "[]"),
            ("dcm.sigmas.x", "[]"),
        ],
    )
    def test_a_wrong_field_is_an_error_and_never_another_boundary(self, key, value):
        with pytest.raises(ValueError):
            read_schedule({**write_schedule(HY), key: value})

    @pytest.mark.parametrize("steps", ["x", "", "-4", "4.0", "9" * 5000])
    def test_a_list_needs_a_number_of_steps(self, steps):
        with pytest.raises(ValueError, match="must end with a number of steps"):
            read_schedule({**write_schedule(HY), f"dcm.sigmas.{steps}": "[]"})
