"""Motion measured: known shifts, what OpenCV finds, and clips whose speed is known exactly."""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from dcm_core.motion import STILL, describe, difference_ratio, differences, optical_flow, speeds, temporal_error
from dcm_core.shapes.captions import Attributes
from dcm_core.shapes.render import PIXELS_PER_FRAME, render_clips

SHIFTS = [(0.0, 0.0), (0.1, -0.3), (1.5, 0.7), (6.2, -3.4), (14.0, 9.0)]


def waves(dx=0.0, dy=0.0, height=96, width=128):
    """A smooth texture [1, H, W] that was moved by (dx, dy) pixels, exactly."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height) - dy, torch.arange(width) - dx, indexing="ij")
    across, down = (0.8 * torch.rand(2, 24, generator=generator) - 0.4)[..., None, None]
    phase = 2 * math.pi * torch.rand(24, 1, 1, generator=generator)
    return (across * x + down * y + phase).sin().mean(0, keepdim=True)


def shape(speed, texture="dotted", seed=1):
    caption = Attributes("red", texture, "square", "left", speed)
    return render_clips([caption], torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_known_shift_is_found_to_a_part_of_a_pixel(shift):
    flow, texture = optical_flow(waves(), waves(*shift))
    flow, texture = flow[0, :, 20:-20, 20:-20], texture[0, 20:-20, 20:-20]
    error = (flow - torch.tensor(shift)[:, None, None]).norm(dim=0)
    assert (error * texture).sum() / texture.sum() < 0.05
    assert (flow.mean((1, 2)) - torch.tensor(shift)).abs().max() < 0.01


@pytest.mark.parametrize("shift", SHIFTS)
def test_opencv_finds_the_same(shift):
    cv2 = pytest.importorskip("cv2")
    start, end = (((each[0] + 1) * 127.5).round().byte() for each in (waves(), waves(*shift)))
    y, x = (each.flatten() for each in torch.meshgrid(torch.arange(24, 72, 8), torch.arange(24, 104, 8), indexing="ij"))
    points = torch.stack([x, y], 1).float().numpy()[:, None]
    arrived, found, _ = cv2.calcOpticalFlowPyrLK(start.numpy(), end.numpy(), points, None, winSize=(7, 7), maxLevel=3)
    assert found.all()
    theirs = torch.from_numpy(arrived - points)[:, 0]
    flow, texture = optical_flow(*(each[None].float() / 127.5 - 1 for each in (start, end)))
    certain = texture[0, y, x] > texture[0].median()  # where there is little texture, neither knows
    difference = (flow[0, :, y, x].T - theirs).norm(dim=1)[certain]
    assert difference.median() < 0.06 and difference.mean() < 0.12


@pytest.mark.parametrize("speed", ["slowly", "fast"])
@pytest.mark.parametrize("texture", ["plain", "dotted"])
def test_the_speed_of_a_shape_is_the_one_it_was_drawn_with(speed, texture):
    found = speeds(shape(speed, texture))
    assert found.shape == (1, 15)
    assert found.mean() == pytest.approx(PIXELS_PER_FRAME[speed], rel=0.1)


def test_speed_knows_neither_contrast_nor_brightness_and_grows_with_the_picture():
    clip = shape("fast")
    assert speeds(0.5 * clip + 0.2).mean() == pytest.approx(float(speeds(clip).mean()), rel=0.03)
    large = interpolate(clip[0, :, :4].movedim(1, 0), scale_factor=16, mode="bicubic")  # measured on a smaller one
    assert speeds(large.movedim(0, 1)[None]).mean() == pytest.approx(16 * PIXELS_PER_FRAME["fast"], rel=0.1)


def test_a_still_picture_has_no_motion_also_with_a_little_noise():
    still = shape("fast")[:, :, :1].repeat(1, 1, 6, 1, 1)
    assert speeds(still).max() < 1e-5 and differences(still).max() == 0
    noise = torch.randn(still.shape, generator=torch.Generator().manual_seed(0)) / 255
    assert speeds(still + noise).mean() < STILL
    assert speeds(torch.zeros(2, 3, 4, 24, 24)).max() == 0
    assert speeds(still[:, :, :1]).shape == differences(still[:, :, :1]).shape == (1, 0)


def test_a_cut_is_no_motion():
    clip, other = shape("fast"), shape("fast", "plain", seed=5)
    cut = torch.cat([clip[:, :, :8], other[:, :, 8:]], 2)
    assert speeds(cut).max() < 1.1 * PIXELS_PER_FRAME["fast"]
    still = torch.cat([clip[:, :, :1].repeat(1, 1, 8, 1, 1), other[:, :, :1].repeat(1, 1, 8, 1, 1)], 2)
    assert speeds(still).max() < 1e-5
    started = torch.cat([clip[:, :, :1].repeat(1, 1, 12, 1, 1), clip[:, :, 1:5]], 2)
    assert speeds(started)[0, -4:].mean() == pytest.approx(PIXELS_PER_FRAME["fast"], rel=0.1), "a start is none"
    # Animated on twos, and too fast to be followed: half of the steps are no cuts.
    jumping = torch.randn(1, 3, 8, 24, 24, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 2)
    assert speeds(jumping).mean() > 0.3


FLICKER = 1 - 0.3 * torch.tensor([0.0, 1.0]).repeat(8)
LIGHTS = {"fade": torch.linspace(1, 0, 16), "flicker": FLICKER}


def lit(clip, light):
    """A clip of 16 frames with its brightness times ``light`` [16]."""
    return (clip + 1) * light.view(1, 1, -1, 1, 1) - 1


@pytest.mark.parametrize("light", LIGHTS.values(), ids=LIGHTS)
@pytest.mark.parametrize("texture", ["plain", "dotted"])
def test_a_still_picture_that_fades_or_flickers_has_no_motion(light, texture):
    still = lit(shape("fast", texture)[:, :, :1].expand(-1, -1, 16, -1, -1), light)
    assert differences(still).min() > 0.005
    assert speeds(still).mean() < STILL / 4
    assert speeds(still - 0.1 * light.view(1, 1, -1, 1, 1)).mean() < STILL / 4, "and of another level of black"


@pytest.mark.parametrize("speed", ["slowly", "fast"])
@pytest.mark.parametrize("texture", ["plain", "dotted"])
def test_a_moving_shape_that_flickers_has_the_same_speed(speed, texture):
    clip = shape(speed, texture)
    assert speeds(lit(clip, FLICKER)).mean() == pytest.approx(float(speeds(clip).mean()), rel=0.03)


def test_half_the_differences_and_a_still_picture():
    ramp = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 16, 16)
    assert difference_ratio(0.5 * ramp, ramp) == 0.5
    assert difference_ratio(ramp[:, :, :1].expand_as(ramp), ramp) == 0
    assert difference_ratio(ramp, ramp[:, :, :1].expand_as(ramp)) == 1, "nothing to compare"


def test_the_temporal_error_is_that_of_the_changes():
    clip = torch.cat([shape("fast"), shape("slowly")])
    assert temporal_error(clip + 0.3, clip).max() < 1e-6
    torch.testing.assert_close(temporal_error(clip[:, :, :1].expand_as(clip), clip), torch.ones(2))
    backwards = temporal_error(clip.flip(2), clip)
    assert backwards.min() > 1
    still = clip[:, :, :1].expand_as(clip)
    assert temporal_error(still, still).max() == 0


@pytest.mark.parametrize(
    ("speed", "reference", "told"),
    [
        (0.272, 0.8, "34% of the reference's motion: slow."),
        (0.8, 0.8, "100% of the reference's motion: alike."),
        (1.6, 0.8, "200% of the reference's motion: fast."),
        (0.001, 0.8, "0% of the reference's motion: still."),
        (0.8, 0.001, "The reference stands still: no motion to compare."),
        (0.8, None, "The video moves 0.80 pixels a frame."),
        (0.001, None, "The video stands still."),
    ],
)
def test_the_sentence(speed, reference, told):
    assert describe(speed, reference) == told
