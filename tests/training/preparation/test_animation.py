"""Images whose pixels are not plain eight bits of sRGB."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from training.preparation.decode import frames, look
from training.preparation.filters import Unfit


def shown(path):
    return next(frames(path, look(path), 0.0)).pixels()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_sixteen_bits(tmp_path, name):
    grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / name)
    assert (shown(tmp_path / name) == (grey >> 8)[..., None]).all()


def test_floating_point_numbers_are_named(tmp_path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(Unfit, match="its pixels are numbers of which it does not say what is white"):
        shown(tmp_path / "a.tif")


def with_red_for_green() -> bytes:
    """A profile whose first channel is the green of sRGB and its second the red."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return plain.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.jpg", "RGB"), ("a.webp", "RGB"), ("b.png", "RGBA")])
def test_a_colour_profile_is_followed(tmp_path, name, mode):
    picture = Image.new(mode, (32, 32), (200, 60, 20, 255)[: len(mode)])
    picture.save(tmp_path / name, icc_profile=with_red_for_green(), quality=95, lossless=True)
    assert abs(shown(tmp_path / name)[16, 16].astype(int) - (60, 200, 20)).max() <= 4


def test_a_profile_that_cannot_be_read_changes_nothing(tmp_path):
    Image.new("RGB", (32, 32), (200, 60, 20)).save(tmp_path / "a.png", icc_profile=b"no profile")
    assert shown(tmp_path / "a.png")[16, 16].tolist() == [200, 60, 20]
    held = BytesIO()
    Image.new("RGB", (32, 32), (200, 60, 20)).save(held, "PNG", icc_profile=b"")
    (tmp_path / "b.png").write_bytes(held.getvalue())
    assert shown(tmp_path / "b.png")[16, 16].tolist() == [200, 60, 20]
