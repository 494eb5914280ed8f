"""The A/B page in a real browser: what it hides, keeps and tells, and that it asks the network for nothing."""

import pytest
import torch
from harness.browser import missing, vote
from harness.fixtures import NO_BROWSER

from training.evaluation.intervals import Estimate
from training.evaluation.measures import MEASURES
from training.evaluation.page import save_page
from training.evaluation.report import Report, Row

NAMES = ["teacher, 50 steps", "both experts, 4"]
CAPTIONS = ["a red circle", "</script><b>a caption that is no part of the page</b>", "a blue square"]


def row(name, seed):
    clips = torch.rand(len(CAPTIONS), 3, 1, 12, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    clips = [torch.cat([clip.roll(frame, -1) for frame in range(16)], 1) for clip in clips]
    numbers = {name: [0.5 + seed] * len(clips) for name in ("motion", "pixel distance", "temporal error", "diversity")}
    return Row(name, {"calls": "8"}, {"motion": Estimate(1, 1, 1)}, clips, numbers, [8.0] * len(clips))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    lacks = missing()
    if lacks:
        pytest.skip(NO_BROWSER.format(", ".join(lacks)))
    folder = tmp_path_factory.mktemp("ab")
    rows = [row(name, seed) for seed, name in enumerate(NAMES)]
    save_page(folder / "ab.html", Report(rows, MEASURES, [["motion"]], CAPTIONS, {"command": ""}))
    return vote(folder / "ab.html", folder)


def test_it_needs_no_network_and_has_no_errors(seen):
    assert seen["asked"] == [] and seen["errors"] == []


def test_both_players_show_the_same_moment(seen):
    assert 0 < seen["playing"][0] and abs(seen["playing"][0] - seen["playing"][1]) < 0.25, "a frame takes 0.125 s"
    first, second = seen["stepped"]
    assert first == second and first * 8 % 1 == pytest.approx(0.5, abs=0.01), "in the middle of a frame"


def test_numbers_stand_under_each_of_a_pair_that_is_voted_on(seen):
    assert not seen["numbersBefore"], "a row that differs from the reference by nothing is the reference"
    assert seen["numbers"].split()[:2] in (["motion", "0.50"], ["motion", "1.50"])
    assert seen["below"] <= 0, "the votes are on a small screen without scrolling"


def test_names_are_hidden_until_the_votes_are_downloaded_and_votes_are_kept(seen):
    assert not [name for name in NAMES if name in seen["blind"]]
    assert seen["kept"].startswith("2 of 3 voted.") and seen["all"].startswith("3 of 3 voted.")
    assert seen["otherTab"] == seen["all"], "a second tab knows of a vote in the first, and overwrites none"
    assert seen["held"] == seen["kept"] and not seen["readyEarly"], "a key that is held votes once"
    assert all(name in seen["revealed"] for name in NAMES) and seen["final"]
    assert seen["later"].startswith(f"{NAMES[0]}: better in "), "and final after the page was opened again"


def test_votes_stand_in_one_row_on_a_phone(seen):
    assert len(set(seen["tops"])) == 1 and seen["beside"] <= 0


def test_the_votes_say_which_row_was_better(seen):
    votes = seen["votes"]
    assert votes["rows"] == NAMES and [each["caption"] for each in votes["votes"]] == CAPTIONS
    first, same, last = votes["votes"]
    assert (first["better"], same["better"], last["better"]) == (first["left"], None, last["right"])
    assert {first["left"], first["right"]} == set(NAMES)
