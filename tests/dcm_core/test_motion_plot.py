"""The picture of motion: curves where they belong, in a size that can be read."""

import pytest
import torch

from dcm_core.motion_plot import plot_motion

VIDEO, REFERENCE = ((torch.tensor(rgb) / 255) for rgb in ((255, 166, 87), (86, 196, 219)))


def rows(picture, colour):
    """First and last row with a colour, below the legend."""
    there = ((picture - colour).abs().amax(dim=-1) < 0.06)[75:].any(dim=1).nonzero().flatten() + 75
    return int(there[0]), int(there[-1])


@pytest.mark.parametrize("frames", [1, 15, 80])
def test_the_faster_video_is_drawn_higher(frames):
    picture = plot_motion({"video": [0.2] * frames, "reference": [0.8] * frames})
    assert picture.shape == (540, 960, 3) and picture.dtype == torch.float32
    assert rows(picture, REFERENCE)[1] < rows(picture, VIDEO)[0]


def test_a_still_video_lies_on_the_axis_and_large_speeds_stay_inside():
    picture = plot_motion({"video": [0.0, 0.0]})
    top, bottom = rows(picture, VIDEO)
    assert bottom - top < 15 and 470 < top < 490
    assert rows(plot_motion({"video": [973.0, 12.0]}), VIDEO)[0] >= 90


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="too small to read"):
        plot_motion({"video": [0.5]}, 100, 100)
