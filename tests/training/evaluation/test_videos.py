"""Folders of finished videos: paired by name, measured against the reference's, and refused where they do not pair."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from harness.clips import write_joined, write_video

from dcm_core.shapes.render import render_clips
from training import evaluate
from training.errors import ConfigError
from training.evaluation.measures import MEASURES
from training.evaluation.page import page_data
from training.evaluation.report import Report
from training.evaluation.videos import compare_folders, read_clip
from training.pictures import to_pixels
from training.shapes.compare import choose_prompts

NAMES = ("one-0", "one-1", "two-0", "two-1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four clips, the same with each frame twice, and the same again."""
    root = tmp_path_factory.mktemp("videos")
    clips = torch.nn.functional.interpolate(
        render_clips(choose_prompts(len(NAMES), 0), torch.Generator().manual_seed(0)), scale_factor=(1, 2, 2)
    )
    slowed = clips[:, :, :8].repeat_interleave(2, 2)
    for folder, made in (("teacher", clips), ("slow", slowed)):
        (root / folder).mkdir()
        for name, clip in zip(NAMES, made, strict=True):
            write_video(root / folder / f"{name}.mp4", to_pixels(clip))
    shutil.copytree(root / "teacher", root / "same")
    return root


def test_a_slowed_folder_has_half_the_motion_and_the_same_one_all(folders):
    rows, names = compare_folders([folders / "slow", folders / "same"], folders / "teacher", shown=3)
    teacher, slow, same = rows
    assert names == list(NAMES[:3]) and [row.name for row in rows] == ["teacher", "slow", "same"]
    assert teacher.numbers["motion"].value == same.numbers["motion"].value == 1
    assert same.numbers["Frechet"].value == pytest.approx(0, abs=1e-6) and same.numbers["pixel distance"].value == 0
    assert slow.numbers["motion"].value == pytest.approx(0.5, abs=0.1)
    assert slow.numbers["temporal error"].low > 0.3
    assert same.numbers["diversity"].value == 1, "the number at the end of a name tells clips of one prompt"


def test_a_reference_that_stands_still_is_no_measure_of_motion(folders, tmp_path):
    shutil.copytree(folders / "teacher", tmp_path / "wanted")
    for name in NAMES:
        still = read_clip(folders / "teacher" / f"{name}.mp4")[0][:, :1].expand(-1, 16, -1, -1)
        write_video(tmp_path / "wanted" / f"{name}.mp4", to_pixels(still))
        some = [each.numbers for each in compare_folders([folders / "slow"], tmp_path / "wanted", shown=4)[0]]
        told = [{"motion", "temporal error"} <= each.keys() for each in some]
        assert told == [name != NAMES[-1]] * 2, "as long as one of the clips moves"
        assert not told[1] or some[1]["temporal error"].value < 2
    _, slow = compare_folders([folders / "slow"], tmp_path / "wanted", shown=4)[0]
    assert all(value != value for name in ("motion", "temporal error") for value in slow.beside[name])
    pair = [replace(slow, name=name, frames_per_second=[8.0, 16.0, 8.0, 8.0]) for name in ("one", "two")]
    questions = page_data(Report(pair, MEASURES, [], NAMES, {}))["questions"]
    assert [each["fps"] for each in questions] == [8, 16, 8, 8], "each clip has its own"
    assert questions[0]["sides"][0]["numbers"]["motion"] == "–"


def test_the_command_writes_a_report_with_a_page(folders, tmp_path, capsys, monkeypatch):
    command = ["--videos", str(folders / "slow"), "--reference", str(folders / "teacher"), "--output", str(tmp_path)]
    evaluate.main([*command, "--html", "--shown", "2"])
    assert {"report.json", "report.md", "plot.png", "contact_sheet.png", "ab.html"} <= {
        each.name for each in tmp_path.iterdir()
    }
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert [row["name"] for row in report["rows"]] == ["teacher", "slow"]
    found = report["rows"][1]["motion"]
    assert found["low"] <= found["value"] <= found["high"]
    assert "24 hand-made numbers" in report["measures"]["Frechet"] and report["torch"]
    assert "24 hand-made numbers" in (tmp_path / "report.md").read_text("utf-8")
    assert "| slow" in capsys.readouterr().out
    assert "teacher" not in (tmp_path / "ab.html").read_text("utf-8")


def test_what_cannot_be_compared_is_named(folders, tmp_path):
    with pytest.raises(ConfigError, match="There is no folder"):
        compare_folders([tmp_path / "none"], folders / "teacher", 1)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="has no video called one-0, one-1, two-0 and 1 more"):
        compare_folders([other], folders / "teacher", 1)
    for name in NAMES:
        write_video(other / f"{name}.mp4", to_pixels(torch.zeros(3, 16, 64, 64)))
    with pytest.raises(ConfigError, match="is 64 x 64 and .* 48 x 48: videos of one name"):
        compare_folders([other], folders / "teacher", 1)
    for name in NAMES:
        write_video(other / f"{name}.mp4", to_pixels(torch.zeros(3, 12, 48, 48)))
    with pytest.raises(ConfigError, match="has 12 frames and .* 16: videos of one name must be of one length"):
        compare_folders([other], folders / "teacher", 1)
    for name in NAMES:
        write_video(other / f"{name}.mp4", to_pixels(torch.zeros(3, 16, 48, 48)), 16)
    with pytest.raises(
        ConfigError, match="has 16 frames a second and .* 8, and motion is measured from frame to frame"
    ):
        compare_folders([other], folders / "teacher", 1)
    (other / "one-0.gif").touch()
    with pytest.raises(ConfigError, match="one-0.gif and one-0.mp4 have the same name but for its ending"):
        compare_folders([other], folders / "teacher", 1)
    with pytest.raises(ConfigError, match="same name"):
        compare_folders([folders / "teacher"], folders / "teacher", 1)
    (other / "broken.mp4").write_bytes(b"no video")
    grown = [np.zeros((size, size, 3), np.uint8) for size in (64, 64, 32, 32)]
    write_joined(other / "grown.mp4", grown[:2], grown[2:])
    with pytest.raises(ConfigError, match="grown.mp4 cannot be compared: its pictures change their size midway"):
        read_clip(other / "grown.mp4")
    with pytest.raises(ConfigError, match="broken.mp4 cannot be compared"):
        read_clip(other / "broken.mp4")
