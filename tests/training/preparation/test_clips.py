"""Which parts of a file become clips, at which times, and how they are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.buckets import Size
from training.preparation.clips import begins, fitted, frames_at, resampled
from training.preparation.filters import Unfit, check_pixels, check_shape
from training.preparation.frames import Frame, Source


def test_modes():
    assert begins("head", 100, 16, 8, 4) == [0]
    assert begins("chunk", 50, 16, 8, 4) == [0, 16, 32]
    assert begins("slide", 33, 16, 8, 4) == [0, 8, 16]
    assert begins("uniform", 100, 16, 8, 4) == [0, 28, 56, 84]
    assert begins("uniform", 17, 16, 8, 4) == [0, 1]
    assert begins("uniform", 100, 16, 8, 1) == [0]


@given(st.sampled_from(["head", "chunk", "slide", "uniform"]), st.data())
def test_every_clip_lies_in_its_file(mode, data):
    length = data.draw(st.integers(1, 40))
    frames = data.draw(st.integers(length, 200))
    found = begins(mode, frames, length, data.draw(st.integers(1, 50)), data.draw(st.integers(1, 9)))
    assert found[0] == 0 and found == sorted(set(found)) and found[-1] + length <= frames


def source(frames, fps):
    return Source(64, 48, frames, frames / fps, 1 / fps, 0.0)


def taken(stamps, times, gap=0.1):
    found = [Frame(time, lambda number=number: number) for number, time in enumerate(stamps)]
    return [frame.pixels() for frame in resampled(iter(found), times, gap)]


def test_frames_are_chosen_by_their_times():
    assert taken(np.arange(8) / 8, np.arange(8) / 8, 1 / 8) == [*range(8)]
    assert taken(np.arange(24) / 24, np.arange(8) / 8, 1 / 24) == [*range(0, 24, 3)]
    assert taken(np.arange(4) / 4, np.arange(8) / 8, 1 / 4) == [0, 0, 1, 1, 2, 2, 3, 3]
    # what is held is on the screen until the next
    assert taken([0, 0.1, 1.0, 1.1], [0, 0.2, 0.9, 1.05]) == [0, 1, 1, 2]


def test_times_that_a_container_rounded_do_not_double_a_frame():
    rounded = np.round(np.arange(24) / 24, 3)
    assert taken(rounded, np.arange(24) / 24, 1 / 24) == [*range(24)]


@pytest.mark.parametrize("rate", [30000 / 1001, 25, 24, 16, 8])
def test_a_file_of_the_wanted_rate_gives_all_its_frames(rate):
    assert frames_at(source(81, rate), rate) == 81


def test_a_frame_counts_whose_time_comes_before_the_files_end():
    """121 frames at 24 a second, as many models make them, are 81 at 16: the last begins with the last of them."""
    assert frames_at(source(121, 24), 16) == 81 and frames_at(source(120, 24), 16) == 80
    assert taken(np.arange(121) / 24, np.arange(81) / 16, 1 / 24)[-1] == 120


def test_a_file_that_ends_before_its_end_is_named():
    with pytest.raises(Unfit, match=r"its frames end at 0\.3 of 0\.9 seconds"):
        taken(np.arange(4) / 10, np.arange(10) / 10)
    with pytest.raises(Unfit):
        taken([], [0.0, 0.1])


def ramp(height, width):
    """Red grows to the right, green downwards."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return picture


def test_cover_cuts_both_sides_evenly():
    wide = fitted(ramp(60, 180), Source(180, 60, 1, 0, 0), Size(1, 30, 30), "cover")
    assert wide.shape == (30, 30, 3)
    assert wide[15, 0, 0] == pytest.approx(255 / 3, abs=4) and wide[15, -1, 0] == pytest.approx(255 * 2 / 3, abs=4)
    assert wide[0, 15, 1] < 6 and wide[-1, 15, 1] > 249
    tall = fitted(ramp(180, 60), Source(60, 180, 1, 0, 0), Size(1, 30, 60), "cover")
    assert tall.shape == (30, 60, 3) and tall[0, 30, 1] == pytest.approx(255 * 75 / 180, abs=4)


def test_centre_takes_the_middle_as_it_is():
    picture = ramp(60, 180)
    middle = fitted(picture, Source(180, 60, 1, 0, 0), Size(1, 20, 40), "centre")
    assert np.array_equal(middle, picture[20:40, 70:110])


def test_pixels_that_are_not_square_are_made_square():
    shown = fitted(ramp(48, 64), Source(128, 48, 1, 0, 0), Size(1, 24, 64), "cover")
    assert shown.shape == (24, 64, 3) and shown[0, 0, 0] < 4 and shown[0, -1, 0] > 251


def test_what_shows_nothing():
    noise = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    check_pixels(noise)
    check_pixels(noise[:1])
    for reason, frames in {"black": noise // 12, "static": noise[:1].repeat(5, 0)}.items():
        with pytest.raises(Unfit) as unfit:
            check_pixels(frames)
        assert unfit.value.reason == reason
        check_pixels(frames, black=False, static=False)
    late = noise[:1].repeat(5, 0)
    late[-1] = 255 - late[-1]
    check_pixels(late)


def test_something_small_that_moves_is_no_still():
    """Twenty pixels of a large picture change its mean by a tenth of what the grain of a camera does."""
    sky = np.full((5, 480, 832, 3), 180, np.uint8)
    for number, frame in enumerate(sky):
        frame[200:220, 100 + 40 * number : 120 + 40 * number] = 60
    check_pixels(sky)
    flicker = 180 + 2 * np.random.default_rng(0).integers(0, 2, (5, 480, 832, 1)) * np.array([[[[1, 0, 0]]]])
    with pytest.raises(Unfit, match="nothing moves in it"):
        check_pixels(flicker.astype(np.uint8))


@given(st.lists(st.sampled_from([0, 10, 23, 24, 200]), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_looking_no_further_than_needed_says_what_all_frames_say(levels, black, static):
    frames = np.zeros((len(levels), 8, 8, 3), np.uint8)
    for frame, level in zip(frames, levels, strict=True):
        frame[0, : 1 + level % 7] = level  # of some a single pixel that is looked at, of others two
    coarse = frames[:, ::4, ::4].astype(int)
    dark = black and (coarse.max(-1) >= 24).mean() < 0.02
    change = abs(coarse - coarse[0])
    moves = (change.mean((1, 2, 3)) >= 0.5).any() or ((change.max(-1) >= 24).mean((1, 2)) >= 0.001).any()
    still = static and len(frames) > 1 and not moves
    try:
        check_pixels(frames, black, static)
    except Unfit as unfit:
        assert unfit.reason == ("black" if dark else "static") and (dark or still)
    else:
        assert not dark and not still


def test_shapes_that_do_not_fit():
    check_shape(640, 480, Size(9, 480, 640), 0.0, 1.0)
    check_shape(1280, 720, Size(9, 480, 640), 0.3, 1.0)
    with pytest.raises(Unfit, match="44% of the picture would be cut away"):
        check_shape(1280, 960 * 0.418, Size(9, 480, 853), 0.4, 9.0)
    with pytest.raises(Unfit, match=r"176x144 would be enlarged 3\.6 times"):
        check_shape(176, 144, Size(9, 480, 640), 0.4, 2.0)
