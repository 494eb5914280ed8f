"""Known colours, coded by the formulas of their standards, come out right, and what is not converted is named."""

import itertools

import av
import numpy as np
import pytest
from harness.clips import write_coded

from training.preparation.decode import frames, look
from training.preparation.filters import Unfit

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
COLOUR = np.array([180, 110, 60]) / 255


def planes(colour, matrix, full, height=48, width=64, bits=8):
    """Y, U and V of 4:2:0 with a constant colour, by ITU-T H.273, 8.3."""
    red, blue = WEIGHTS[matrix]
    y = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
    u, v = (colour[2] - y) / (2 - 2 * blue), (colour[0] - y) / (2 - 2 * red)
    unit = 2 ** (bits - 8)
    luma = y * (256 * unit - 1) if full else (16 + 219 * y) * unit
    chroma = [each * (256 * unit - 1) + 128 * unit if full else (128 + 224 * each) * unit for each in (u, v)]
    small = (height // 2, width // 2)
    kind = np.uint8 if bits == 8 else np.uint16
    return [np.full(shape, round(value), kind) for shape, value in zip([(height, width), small, small],
            [luma, *chroma], strict=True)]  # fmt: skip


def shown(path):
    return next(frames(path, look(path), 0.0)).pixels()[20, 20].astype(int)


@pytest.mark.parametrize(("matrix", "full"), [*itertools.product((1, 5, 6, 7), (False, True))])
def test_the_matrix_and_range_that_a_file_names(tmp_path, matrix, full):
    path = write_coded(
        tmp_path / "a.mp4", planes(COLOUR, matrix, full), "yuv420p", colorspace=matrix, color_range=1 + full
    )
    assert abs(shown(path) - COLOUR * 255).max() <= 3


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx265"])
def test_full_range_of_other_codecs(tmp_path, codec):
    name = "a.webm" if "vp9" in codec else "a.mov"
    path = write_coded(tmp_path / name, planes(COLOUR, 1, True), "yuv420p", codec, colorspace=1, color_range=2)
    assert abs(shown(path) - COLOUR * 255).max() <= 3


def test_ten_bits_of_full_range(tmp_path):
    coded = planes(COLOUR, 1, True, bits=10)
    path = write_coded(tmp_path / "a.mp4", coded, "yuv420p10le", "libx265", colorspace=1, color_range=2)
    assert abs(shown(path) - COLOUR * 255).max() <= 3


def test_a_range_without_a_name_is_the_limited_one(tmp_path):
    path = write_coded(tmp_path / "a.mp4", planes(COLOUR, 5, False), "yuv420p")
    assert abs(shown(path) - COLOUR * 255).max() <= 3


def test_the_matrix_that_a_large_file_names_counts_and_not_its_size(tmp_path):
    path = write_coded(tmp_path / "a.mp4", planes(COLOUR, 6, False, 720, 1280), "yuv420p", colorspace=6)
    assert abs(shown(path) - COLOUR * 255).max() <= 3


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(
    ("primaries", "seen"),
    [
        (9, ((0.6370, 0.1446, 0.1689), (0.2627, 0.6780, 0.0593), (0.0, 0.0281, 1.0610))),
        (12, ((0.4866, 0.2657, 0.1982), (0.2290, 0.6917, 0.0793), (0.0, 0.0451, 1.0439))),
    ],
)
def test_wide_gamuts_of_ordinary_range(tmp_path, primaries, seen, bits):
    """A colour that BT.709 has too, told in wider primaries: ``seen`` is what these are in CIE XYZ."""
    of_709 = np.array(((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))
    wide = (np.linalg.inv(np.array(seen)) @ of_709 @ COLOUR**2.4) ** (1 / 2.4)
    assert abs(wide - COLOUR).max() * 255 > 10, "it would hardly show if nothing were converted"
    matrix, form = (9, "yuv420p10le") if bits == 10 else (1, "yuv420p")
    told = {"colorspace": matrix, "color_primaries": primaries, "color_trc": 14 if bits == 10 else 1, "color_range": 1}
    codec = "libx265" if bits == 10 else "libx264"
    path = write_coded(tmp_path / "a.mp4", planes(wide, matrix, False, bits=bits), form, codec, **told)
    assert abs(shown(path) - COLOUR * 255).max() <= 4


@pytest.mark.parametrize(
    "told",
    [
        {"colorspace": 8},
        {"colorspace": 10},
        {"colorspace": 14},
        {"color_primaries": 11},
        {"color_primaries": 10},
        {"color_trc": 8},
        {"color_trc": 17},
        {"color_trc": 16, "color_primaries": 12},
        {"color_trc": 18, "color_primaries": 1},
    ],
)
def test_what_is_not_converted_is_dropped_and_named(tmp_path, told):
    path = write_coded(tmp_path / "a.mp4", planes(COLOUR, 1, False), "yuv420p", **told)
    with pytest.raises(
        Unfit, match="its colours are not converted: matrix .*, curve .* and primaries .* of ITU-T H.273"
    ) as unfit:
        look(path)
    assert unfit.value.reason == "colours"


def test_dolby_vision_alone_is_dropped_and_named(tmp_path):
    """Its matrix stands in no place where FFmpeg reads one: the colours would be green and violet."""
    path = write_coded(tmp_path / "a.mp4", planes(COLOUR, 9, False, bits=10), "yuv420p10le", "libx265")
    content = path.read_bytes()
    with av.open(str(path)) as container:
        tag = container.streams.video[0].codec_context.codec_tag.encode()
    path.write_bytes(content.replace(tag, b"dvh1"))
    with pytest.raises(Unfit, match="it is Dolby Vision alone, which is not converted"):
        look(path)
