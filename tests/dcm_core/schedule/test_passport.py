"""The passport of a speed LoRA: its levels, its fields in a header, and what contradicts itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.schedule.passport import KEYS, Passport, levels, read_passport, write_passport

FOUR = (1.0, 0.9375, 0.8333, 0.625)
numbers = st.floats(0.0078125, 1.0, width=32)
lists = st.lists(numbers, min_size=1, max_size=6, unique=True).map(lambda values: tuple(sorted(values, reverse=True)))


@given(
    st.lists(lists, min_size=1, max_size=3),
    st.none() | st.floats(0.01, 100.0),
    st.none() | st.floats(0.0, 30.0),
    st.sampled_from([(), ("euler",), ("lcm", "euler")]),
    st.sampled_from(["", "high", "low"]),
)
def test_a_header_keeps_all_that_a_passport_says(levels_of, shift, cfg, samplers, expert):
    passport = Passport(
        {len(values): values for values in levels_of},
        "https://example.org",
        family="wan",
        usual_steps=len(levels_of[0]),
        shift=shift,
        samplers=samplers,
        cfg=cfg,
        strength=0.8,
        expert=expert,
        title="tidal turbo",
    )
    header = write_passport(passport)
    assert all(key.startswith(KEYS) for key in header) and all(type(value) is str for value in header.values())
    read = read_passport({"modelspec.title": "other", **header})
    assert read == passport and dict(read.sigmas) == dict(passport.sigmas)


def test_a_header_without_a_passport():
    assert read_passport({"dcm.format": "1.2", "modelspec.title": "turbo"}) is None


def test_levels_of_a_run():
    passport = Passport({4: FOUR, 2: (1.0, 0.5)}, title="tidal turbo")
    assert levels(passport).tolist() == pytest.approx([*FOUR, 0.0])  # the first list's number is the usual one
    assert levels(passport, 2).tolist() == [1.0, 0.5, 0.0]
    assert levels(passport).dtype == torch.float32
    assert len(levels(Passport({4: FOUR, 2: (1.0, 0.5)}, usual_steps=2))) == 3
    with pytest.raises(ValueError, match="tidal turbo has noise levels for 2 or 4 steps, not for 6: change steps"):
        levels(passport, 6)


@pytest.mark.parametrize(
    ("lists", "options", "said"),
    [
        ({}, {}, "no list of sigmas"),
        ({4: FOUR[:3]}, {}, "contradicts itself: its list for 4 steps has 3 values"),
        ({2: (0.5, 0.8)}, {}, "sigmas must fall"),
        ({2: (1000.0, 500.0)}, {}, "divide timesteps by 1000"),
        ({2: (1.0, 0.0)}, {}, "sigmas must fall"),
        ({4: FOUR}, {"usual_steps": 8}, "contradicts itself: its usual number of steps is 8"),
        ({4: FOUR}, {"boundary": 0.5}, "boundary is 0.5, which leaves the low-noise model none of its 4 steps"),
        ({2: (0.8, 0.5)}, {"boundary": 0.9}, "leaves the high-noise model none of its 2 steps"),
        ({4: FOUR}, {"shift": 0.0}, "shift is 0: use a number from 0.01 to 100"),
        ({4: FOUR}, {"shift": float("nan")}, "shift must be a finite number"),
        ({4: FOUR}, {"cfg": -1.0}, "cfg is -1"),
        ({4: FOUR}, {"strength": 0.0}, "strength is 0"),
        ({4: FOUR}, {"strength": 40.0}, "strength is 40"),
        ({4: FOUR}, {"expert": "middle"}, '"high" or "low"'),
    ],
    ids=str,
)
def test_passports_that_no_run_could_follow(lists, options, said):
    with pytest.raises(ValueError, match=said):
        Passport(lists, **options)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("sigmas.4", "[1.0, 0.9]", "has 2 values"),
        ("sigmas.four", "[1.0]", "must end with a number of steps"),
        ("sigmas.4", "1.0 0.9", "dcm_schedule.sigmas.4 is '1.0 0.9', which cannot be read"),
        ("sigmas.04", "[1.0, 0.7, 0.6, 0.5]", "stands beside another list for as many steps"),
        ("sigmas.2", '{"1": 0, "0.5": 0}', "which cannot be read"),
        ("shift", "five", "dcm_schedule.shift is 'five', which cannot be read"),
        ("format", "2.0", "update DCM"),
    ],
)
def test_headers_that_cannot_be_read(field, value, said):
    header = write_passport(Passport({4: FOUR})) | {KEYS + field: value}
    with pytest.raises(ValueError, match=said):
        read_passport(header)
