"""The read-out is the judge of everything: it must be right on real clips and see what is wrong with bad ones."""

from dataclasses import replace

import pytest
import torch

from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES, Attributes
from dcm_core.shapes.readout import NOTHING, read_clip, read_clips
from dcm_core.shapes.render import render_clips


@pytest.fixture(scope="module")
def clips():
    return render_clips(ALL_ATTRIBUTES, torch.Generator().manual_seed(11))


def test_rendered_clips_are_read_without_an_error(clips):
    readings = read_clips(clips)
    assert [reading.attributes for reading in readings] == list(ALL_ATTRIBUTES)
    assert max(reading.motion_error(a) for reading, a in zip(readings, ALL_ATTRIBUTES, strict=True)) < 0.02
    assert all(0.9 < reading.sharpness < 1.1 and reading.jitter < 0.2 for reading in readings)


def test_the_autoencoder_keeps_everything_the_read_out_needs(clips):
    decoded = autoencoder.decode(autoencoder.encode(clips))
    assert [reading.attributes for reading in read_clips(decoded)] == list(ALL_ATTRIBUTES)


def test_a_clip_played_backwards_moves_the_other_way(clips):
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for attributes, clip in list(zip(ALL_ATTRIBUTES, clips, strict=True))[::17]:
        assert read_clip(clip.flip(1)).attributes == replace(attributes, direction=opposite[attributes.direction])


def test_a_frozen_clip_shows_no_motion(clips):
    reading = read_clip(clips[0][:, :1].expand_as(clips[0]))
    assert reading.attributes.direction == NOTHING and reading.attributes.speed == NOTHING
    assert reading.attributes.colour == ALL_ATTRIBUTES[0].colour


def test_an_empty_or_noisy_clip_shows_nothing(clips):
    for clip in (
        torch.zeros_like(clips[0]),
        torch.randn(clips[0].shape, generator=torch.Generator().manual_seed(0)),
    ):
        attributes = read_clip(clip).attributes
        assert {attributes.colour, attributes.shape, attributes.texture} == {NOTHING}


def test_blur_costs_sharpness_and_texture():
    sharp = Attributes("red", "striped", "circle", "left", "slowly")
    clip = render_clips([sharp], torch.Generator().manual_seed(3))
    blurred = torch.nn.functional.avg_pool2d(clip[0], 5, stride=1, padding=2)
    reading = read_clip(blurred)
    assert reading.sharpness < 0.5 * read_clip(clip[0]).sharpness
    assert reading.attributes.texture != "striped"


def test_motion_error_is_the_distance_of_velocities(clips):
    slow = Attributes("red", "plain", "circle", "left", "slowly")
    fast = Attributes("red", "plain", "circle", "right", "fast")
    clip = render_clips([slow], torch.Generator().manual_seed(5))[0]
    assert read_clip(clip).motion_error(fast) == pytest.approx(1.1, abs=0.02)


def test_the_autoencoder_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="15 frames"):
        autoencoder.encode(torch.zeros(1, 3, 15, 24, 24))
    with pytest.raises(ValueError, match=r"\[1, 4, 4, 12, 12\]"):
        autoencoder.decode(torch.zeros(1, 4, 4, 12, 12))


def test_latents_have_unit_variance_per_channel(clips):
    spread = autoencoder.encode(clips).std((0, 2, 3, 4))
    assert ((spread > 0.8) & (spread < 1.2)).all()


def test_previews_get_the_true_colours(clips):
    factors, bias = autoencoder.latent_rgb_factors()
    latent = autoencoder.encode(clips[:1])[0]
    preview = torch.einsum("cthw,cr->rthw", latent, torch.tensor(factors)) + torch.tensor(bias)[:, None, None, None]
    blocks = clips[0].unfold(1, 4, 4).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2, -3))
    assert (preview - blocks).abs().mean() < 0.05
