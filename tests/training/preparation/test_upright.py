"""Turned and mirrored, by every matrix that a camera writes; a slanted one is named."""

import gc
import math
from types import SimpleNamespace

import av
import numpy as np
import pytest
from harness.clips import moving, show_by, write_video

from training.preparation.decode import frames, look
from training.preparation.filters import Unfit
from training.preparation.upright import Orientation, orientation

MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
            (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]  # fmt: skip


def moved(clip, a, b, c, d):
    """Every pixel (x, y) of [T, H, W, 3] at (ax + cy, bx + dy), and the whole moved back into view."""
    height, width = clip.shape[1:3]
    y, x = np.mgrid[:height, :width]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.empty((len(clip), down.max() + 1, across.max() + 1, 3), clip.dtype)
    shown[:, down, across] = clip
    return shown


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_picture_is_shown_as_its_matrix_says(tmp_path, matrix):
    path = show_by(write_video(tmp_path / "phone.mp4", moving()), *matrix)
    shown = np.stack([frame.pixels() for frame in frames(path, look(path), 0.0)])
    expected = moved(moving(), *matrix)
    assert shown.shape == expected.shape and abs(shown.astype(int) - expected).mean() < 6
    assert (look(path).width, look(path).height) == (expected.shape[2], expected.shape[1])


def test_a_matrix_that_scales_too_turns_all_the_same(tmp_path):
    path = show_by(write_video(tmp_path / "phone.mp4", moving()), 0, 2, -2, 0)
    assert next(frames(path, look(path), 0.0)).pixels().shape == (64, 48, 3)


def test_a_slanted_picture_is_named(tmp_path):
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    path = show_by(write_video(tmp_path / "slanted.mp4", moving()), cosine, sine, -sine, cosine)
    with pytest.raises(Unfit, match="it is to be shown turned by 30 degrees"):
        look(path)


@pytest.mark.parametrize(("rotation", "quarters"), [(0, 0), (90, 1), (-90, 3), (-180, 2), (180, 2)])
def test_beside_side_data_of_an_unknown_kind_the_turn_alone_counts(monkeypatch, rotation, quarters):
    def unknown(frame):
        raise ValueError("32 is not a valid Type")

    monkeypatch.setattr("training.preparation.upright.SideDataContainer", unknown)
    assert orientation(SimpleNamespace(rotation=rotation)) == Orientation(False, quarters)


def test_a_frame_is_let_go_without_the_garbage_collector(tmp_path):
    """Thousands of them would wait for it, each with its memory and with threads that no forked process has."""
    path = show_by(write_video(tmp_path / "phone.mp4", moving()), *MATRICES[1])
    gc.disable()
    try:
        before = len([each for each in gc.get_objects() if type(each) is av.VideoFrame])
        source = look(path)
        assert all(frame.pixels().any() for frame in frames(path, source, 0.0))
        assert len([each for each in gc.get_objects() if type(each) is av.VideoFrame]) == before
    finally:
        gc.enable()
