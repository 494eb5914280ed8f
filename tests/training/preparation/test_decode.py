"""Frames of every kind of file: upright, at their times, in their colours; what cannot be decoded is named."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from harness.clips import (
    cut_by_edit_list,
    moving,
    truncate,
    turn,
    write_animation,
    write_interlaced,
    write_joined,
    write_sound,
    write_video,
)
from PIL import Image

from training.preparation.decode import frames, look
from training.preparation.filters import Unfit


def decoded(path, begin=0.0):
    """(times, pixels [T, H, W, 3]) of a file."""
    found = [(frame.time, frame.pixels()) for frame in frames(path, look(path), begin)]
    return [time for time, _ in found], np.stack([pixels for _, pixels in found])


def close(pixels, expected, tolerance=6):
    return pixels.shape == expected.shape and abs(pixels.astype(int) - expected).mean() < tolerance


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.mov", "libx265")],
)
def test_a_video_of_any_container(tmp_path, name, codec):
    path = write_video(tmp_path / name, moving(20), codec=codec)
    times, pixels = decoded(path)
    assert np.allclose(times, np.arange(20) / 8, atol=0.002) and close(pixels, moving(20))
    source = look(path)
    assert (source.width, source.height, source.frames) == (64, 48, 20)
    assert source.seconds == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotated_video_is_upright(tmp_path, quarters):
    path = turn(write_video(tmp_path / "phone.mp4", moving()), quarters)
    assert close(decoded(path)[1], np.rot90(moving(), -quarters, axes=(1, 2)))
    width, height = (64, 48) if quarters == 2 else (48, 64)
    assert (look(path).width, look(path).height) == (width, height)


def combed(pixels):
    """How unlike each line is to those above and below it."""
    lines = pixels.astype(float)
    return abs(lines[:, 1:-1] - (lines[:, :-2] + lines[:, 2:]) / 2).mean()


@pytest.mark.parametrize("name", ["broadcast.mpeg", "broadcast.mkv"])
def test_an_interlaced_video_has_no_combs(tmp_path, name):
    moments = moving(24)
    path = write_interlaced(tmp_path / name, moments)
    times, pixels = decoded(path)
    assert np.allclose(times, np.arange(12) / 8, atol=0.002)
    assert combed(pixels) < 1.1 * combed(moments) < 0.7 * combed(raw(path)) and close(pixels, moments[::2])


def raw(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_video_that_turns_midway_is_named_and_one_that_only_gets_smaller_is_read(tmp_path):
    turned = write_joined(tmp_path / "turned.ts", moving(9), moving(9, 64, 48))
    with pytest.raises(Unfit, match="its pictures change from 64x48 to 48x64"):
        decoded(turned)
    smaller = write_joined(tmp_path / "smaller.ts", moving(9), moving(9, 24, 32))
    assert [frame.pixels().shape[:2] for frame in frames(smaller, look(smaller), 0.0)][8:10] == [(48, 64), (24, 32)]


def test_pixels_that_are_not_square_count_with_their_width(tmp_path):
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for frame in moving():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    assert (look(path).width, look(path).height) == (96, 48)


def test_odd_and_variable_frame_rates(tmp_path):
    odd = write_video(tmp_path / "ntsc.mp4", moving(), Fraction(30000, 1001))
    assert np.allclose(decoded(odd)[0], np.arange(9) * 1001 / 30000, atol=1e-3)
    stamps = [0, 40, 200, 240, 900, 1000, 1010, 1500, 2000]
    variable = write_video(tmp_path / "variable.mkv", moving(), 1000, times=stamps)
    assert np.allclose(decoded(variable)[0], np.array(stamps) / 1000, atol=1e-3)


def test_ten_bits_of_ordinary_range(tmp_path):
    path = write_video(tmp_path / "ten.mp4", moving(), codec="libx265", pixels="yuv420p10le")
    assert close(decoded(path)[1], moving())


def test_colours_without_a_name_are_bt601_when_small_and_bt709_when_large(tmp_path):
    """Nearly no file says by which matrix its colours were coded; cameras and players go by the size."""
    red = np.zeros((2, 720, 1280, 3), np.uint8)
    red[..., 0] = 200
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for frame in red:
            coded = av.VideoFrame.from_ndarray(frame).reformat(format="yuv420p", dst_colorspace="itu709")
            container.mux(stream.encode(coded))
        container.mux(stream.encode())
    assert close(decoded(path)[1], red, 3)
    small = write_video(tmp_path / "small.mp4", red[:, :48, :64])
    assert close(decoded(small)[1], red[:, :48, :64], 3)


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png"])
def test_an_animation_frame_by_frame(tmp_path, name):
    path = write_animation(tmp_path / name, moving(), [100, 50, *[120] * 7])
    times, pixels = decoded(path)
    assert times[:3] == pytest.approx([0, 0.1, 0.15]) and close(pixels, moving())
    assert not look(path).still and look(path).seconds == pytest.approx(0.99)


def test_a_frame_that_is_shown_for_no_time_is_shown_as_long_as_in_a_browser(tmp_path):
    path = write_animation(tmp_path / "a.gif", moving(), 0)
    assert look(path).seconds == pytest.approx(0.9)


def test_a_still_image_upright_and_what_is_transparent_white(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turn to the right
    Image.fromarray(moving(1)[0]).save(tmp_path / "phone.jpg", exif=turned, quality=95)
    source = look(tmp_path / "phone.jpg")
    assert (source.width, source.height, source.frames, source.still) == (48, 64, 1, True)
    assert close(decoded(tmp_path / "phone.jpg")[1][0], np.rot90(moving(1)[0], -1))
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "logo.png")
    assert (decoded(tmp_path / "logo.png")[1] == 255).all()


def test_winding_forward_gives_the_same_frames(tmp_path):
    path = write_video(tmp_path / "long.mp4", moving(60), stream_options={"g": "12"})
    _, every = decoded(path)
    times, later = decoded(path, begin=4.0)
    assert 0 < times[0] <= 4.0 and len(later) < 60
    assert np.array_equal(later, every[round(times[0] * 8) :])


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif", "a.png"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_a_truncated_file_is_named(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    whole = tmp_path / name
    if name == "a.mp4":
        write_video(whole, noise, options={"movflags": "faststart"})
    else:
        write_animation(whole, noise)
    with pytest.raises(Unfit) as unfit:
        decoded(truncate(whole, share))
    assert unfit.value.reason in ("truncated", "unreadable") and "\n" not in str(unfit.value)


def test_a_file_that_is_cut_between_two_frames_is_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(20), options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        places = sorted(packet.pos for packet in container.demux() if packet.size)
    path.write_bytes(path.read_bytes()[: places[12]])
    with pytest.raises(Unfit, match="12 of its 20 frames are there"):
        look(path)


@pytest.mark.parametrize("gop", [5, 100])
def test_a_video_that_was_cut_on_a_phone_shows_what_is_left(tmp_path, gop):
    """Of one picture group the file still holds frames that are not to be shown, of several not even its index does."""
    whole = write_video(tmp_path / "a.mp4", moving(20), stream_options={"g": str(gop)})
    path = cut_by_edit_list(whole, 1.0)
    times, pixels = decoded(path)
    assert np.allclose(times, np.arange(12) / 8, atol=0.002) and close(pixels, moving(20)[8:])
    assert look(path).frames == 12 and look(path).seconds == pytest.approx(1.5, abs=0.01)
    late, pixels = decoded(path, begin=0.5)
    assert close(pixels[late.index(0.5) :], moving(20)[12:])


def test_a_song_with_a_cover_has_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(write_sound(tmp_path / "plain.mp4"))) as plain, av.open(str(path), "w") as container:
        (source,) = plain.streams.audio
        sound, cover = container.add_stream_from_template(source), container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(moving(1)[0])))
        for packet in plain.demux(source):
            if packet.dts is not None:
                packet.stream = sound
                container.mux(packet)
    with pytest.raises(Unfit, match="it has no video, only audio"):
        look(path)


def test_sound_alone_is_no_picture(tmp_path):
    with pytest.raises(Unfit, match="it has no video, only audio") as unfit:
        look(write_sound(tmp_path / "song.mp4"))
    assert unfit.value.reason == "no picture"


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {secret}\n",
        "RIFF????WEBPVP8 ",
        "\0" * 4096,
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.webp"])
def test_a_file_opens_no_other_file(tmp_path, text, name):
    """Playlists and scripts under the name of a video would show what they point to."""
    secret = write_video(tmp_path / "secret.mp4", moving())
    (tmp_path / name).write_text(text.format(secret=secret))
    with pytest.raises(Unfit):
        look(tmp_path / name)


@pytest.mark.parametrize("name", ["%03d.mp4", "concat:a.mp4|b.mp4", "-i.mp4", "a\nb.mp4", "http:x.mp4", "\udcff.mp4"])
def test_a_name_is_only_a_name(tmp_path, name):
    written = write_video(tmp_path / "plain.mp4", moving())
    (tmp_path / name).write_bytes(written.read_bytes())
    assert look(tmp_path / name).frames == 9
