"""The picture of a run: what is drawn where, in whose colour."""

import pytest
import torch
from harness.schedules import EVERY, HY, OFFICIAL, WAN

from dcm_core.canvas import Canvas
from dcm_core.families.presets import FAMILIES, find_family
from dcm_core.schedule.pairs import PAIR_NAMES, pair_schedule
from dcm_core.schedule.plot import plot_schedule

SEMANTIC, DETAIL, KAPPA = ((torch.tensor(rgb) / 255) for rgb in ((255, 166, 87), (86, 196, 219), (226, 108, 148)))


def found(picture, colour):
    """Where a colour is drawn: bool [H, W]."""
    return (picture - colour).abs().amax(dim=-1) < 0.06


def columns(picture, colour):
    """First and last column with the colour of an expert, below the legend."""
    there = found(picture, colour)[75:].any(dim=0).nonzero().flatten()
    return int(there[0]), int(there[-1])


@pytest.mark.parametrize("schedule", EVERY)
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_picture_the_host_can_show(schedule, steps):
    picture = plot_schedule(schedule, schedule.sigmas(steps))
    assert picture.shape == (540, 960, 3)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < picture.max() <= 1


@pytest.mark.parametrize(("width", "height"), [(480, 270), (1280, 720), (500, 900)])
def test_asked_size(width, height):
    assert plot_schedule(HY, HY.sigmas(4), width, height).shape == (height, width, 3)


@pytest.mark.parametrize(("semantic_steps", "share"), [(1, 1 / 4), (2, 2 / 4), (3, 3 / 4)])
def test_the_colours_meet_at_the_step_of_the_switch(semantic_steps, share):
    picture = plot_schedule(HY, HY.sigmas(4, semantic_steps))
    start, meet = columns(picture, SEMANTIC)
    meet_too, end = columns(picture, DETAIL)
    assert meet == pytest.approx(meet_too, abs=12)
    assert meet == pytest.approx(start + share * (end - start), abs=12)


def test_one_colour_where_one_expert_runs():
    below_legend = slice(75, None)
    semantic_only = plot_schedule(HY, HY.sigmas(1))[below_legend]
    detail_only = plot_schedule(HY, HY.sigmas(4, denoise=0.5))[below_legend]
    assert found(semantic_only, SEMANTIC).any() and not found(semantic_only, DETAIL).any()
    assert found(detail_only, DETAIL).any() and not found(detail_only, SEMANTIC).any()


@pytest.mark.parametrize("schedule", [family.schedule for family in FAMILIES.values()], ids=FAMILIES)
def test_the_kappa_line_lies_where_the_grid_has_kappa(schedule):
    picture = plot_schedule(schedule, schedule.sigmas(4))
    row = int(found(picture, KAPPA).sum(dim=1).argmax())
    top, bottom = 96, 540 - 62
    u = (schedule.kappa_index + 1) / schedule.grid.points
    assert row == pytest.approx(bottom + (top - bottom) * u, abs=2)


def test_another_list_is_another_picture():
    pictures = [plot_schedule(OFFICIAL["wan"], sigmas) for sigmas in (OFFICIAL["wan"].sigmas(6), WAN.sigmas(6))]
    assert (pictures[0] - pictures[1]).abs().max() > 0.5


def test_the_legend_names_the_parts():
    experts, pair = (plot_schedule(HY, HY.sigmas(4), **names) for names in ({}, {"names": PAIR_NAMES}))
    assert not torch.equal(experts[:75], pair[:75])


@pytest.fixture
def written(monkeypatch):
    """The words on the pictures, in their order."""
    words, text = [], Canvas.text

    def noted(self, x, y, said, *arguments):
        words.append(said)
        text(self, x, y, said, *arguments)

    monkeypatch.setattr(Canvas, "text", noted)
    return words


def test_the_line_between_a_pair_is_called_boundary(written):
    """And lies at the noise level that was typed, which is no point of the grid."""
    pair = pair_schedule(0.875, find_family("wan").pair.grid)
    plot_schedule(pair, pair.sigmas(4), names=PAIR_NAMES)
    assert "boundary 0.8750" in written and not [words for words in written if "kappa" in words]
    written.clear()
    plot_schedule(OFFICIAL["wan"], OFFICIAL["wan"].sigmas(4))
    assert f"kappa {OFFICIAL['wan'].kappa_text}" in written


def test_one_model_takes_all_steps(written):
    picture = plot_schedule(HY, HY.sigmas(4), names="MODEL")
    assert written[-1] == "MODEL, 4 steps"
    assert not [words for words in written if "kappa" in words or "expert" in words]
    assert not found(picture, KAPPA).any()


def test_bad_input():
    with pytest.raises(ValueError, match="must fall"):
        plot_schedule(HY, [0.5, 1.0])
    with pytest.raises(ValueError, match="at least 480 x 270"):
        plot_schedule(HY, HY.sigmas(4), 100, 100)
