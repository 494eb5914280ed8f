"""DCM Motion: what it says of a video that was slowed, of the same one, and of a reference that stands still."""

import pytest
import torch
from dcm_pack.dcm_core.shapes.captions import Attributes
from dcm_pack.dcm_core.shapes.render import render_clips
from harness.worlds import dcm_node


def frames(speed="fast", seed=0):
    clip = render_clips([Attributes("red", "dotted", "square", "left", speed)], torch.Generator().manual_seed(seed))
    return (clip[0].movedim(0, -1) + 1) / 2


def measured(video, reference=None):
    """info, plot, motion_ratio, speed, temporal_error"""
    return list(dcm_node("DCMMotion").execute(video, reference).args)


def test_a_slowed_video_is_called_slow():
    video = frames()
    slowed = video[:8].repeat_interleave(2, 0)  # each frame twice: half the motion
    info, plot, ratio, speed, error = measured(slowed, video)
    assert "of the reference's motion: slow." in info and info.startswith(f"{ratio:.0%}")
    assert ratio == pytest.approx(0.5, abs=0.06) and speed == pytest.approx(0.4, abs=0.08)
    assert error > 0.3
    assert plot.shape == (1, 540, 960, 3) and 0 <= plot.min() < plot.max() <= 1
    assert measured(frames("slowly"), video)[2] == pytest.approx(0.3 / 0.8, abs=0.06)


def test_the_same_video_is_alike():
    info, _, ratio, _, error = measured(frames(), frames())
    assert info.startswith("100% of the reference's motion: alike.")
    assert (ratio, error) == (1.0, 0.0)


def test_a_still_reference_is_no_measure():
    still = frames()[:1].repeat(16, 1, 1, 1)
    info, _, ratio, speed, error = measured(frames(), still)
    assert info == f"The reference stands still: no motion to compare. The video moves {speed:.2f} pixels a frame."
    assert (ratio, error) == (1.0, 0.0), "no share of nothing"
    assert measured(still, still)[0].endswith("no motion to compare. The video stands still.")
    assert measured(still, frames())[0].startswith("0% of the reference's motion: still.")


def test_a_video_alone_is_measured_in_pixels():
    info, _, ratio, speed, error = measured(frames())
    assert info == f"The video moves {speed:.2f} pixels a frame."
    assert (ratio, error) == (1.0, 0.0)


def test_videos_of_other_lengths_are_compared_and_those_with_alpha_are_taken():
    with_alpha = torch.cat([frames(), torch.ones(16, 24, 24, 1)], -1)
    assert measured(with_alpha[:9], frames())[2] == pytest.approx(1, abs=0.05)


def test_what_cannot_be_measured_is_named():
    with pytest.raises(ValueError, match="reference is a single picture"):
        measured(frames(), frames()[:1])
    for wrong in (float("nan"), float("inf")):
        broken = frames().index_fill(0, torch.tensor([4, 9]), wrong)
        with pytest.raises(ValueError, match="video has NaN or Inf in 2 of its 16 frames, frame 5 the first"):
            measured(broken, frames())
        with pytest.raises(ValueError, match="reference has NaN or Inf"):
            measured(frames(), broken)
    with pytest.raises(ValueError, match="video is 24 x 24 and reference 12 x 24: bring both to one size"):
        measured(frames(), frames()[:, :, :12])
