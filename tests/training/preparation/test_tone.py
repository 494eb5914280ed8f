"""High dynamic range: points of the standards' curves, and files whose colours are known."""

import numpy as np
import pytest
import torch
from harness.clips import write_video

from training.preparation.decode import frames, look
from training.preparation.tone import HLG, PQ, from_hlg, from_pq, to_standard


def test_the_perceptual_quantiser_at_points_of_its_standard():
    """10-bit codes of full range in BT.2408, table 1: 58% is its diffuse white."""
    assert from_pq(torch.tensor([0.0, 0.508078, 0.58, 0.751827, 1.0])).tolist() == pytest.approx(
        [0, 100, 203, 1000, 10000], rel=0.01, abs=1e-6
    )


def test_hybrid_log_gamma_at_points_of_its_standard():
    """75% is 203 nits on a display of 1000, and 100% all of it."""
    grey = torch.tensor([0.0, 0.75, 1.0])[:, None].expand(3, 3)
    assert from_hlg(grey)[:, 1].tolist() == pytest.approx([0, 203, 1000], rel=0.01, abs=1e-3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_what_is_brighter_stays_brighter_and_white_is_nearly_white(transfer):
    ramp = torch.linspace(0, 1, 200)[:, None].expand(200, 3)
    mapped = to_standard(ramp, transfer)
    assert (mapped.diff(dim=0) >= -1e-6).all() and mapped.max() <= 1
    white = to_standard(torch.full((1, 3), 0.58 if transfer == PQ else 0.75), transfer)
    assert white.min() > 0.93 and torch.allclose(white, white[:, :1].expand(1, 3), atol=2e-3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_a_file_of_ten_bits(tmp_path, transfer):
    """A grey of 100 nits on the left and a saturated green on the right."""
    grey = 0.508078 if transfer == PQ else 0.6296
    coded = np.zeros((4, 48, 64, 3), np.uint16)
    coded[:, :, :32] = round(grey * 65535)
    coded[:, :, 32:] = (round(0.2 * 65535), round(grey * 65535), round(0.2 * 65535))
    path = write_video(tmp_path / "hdr.mp4", coded, codec="libx265", pixels="yuv420p10le", transfer=transfer)
    shown = next(frames(path, look(path), 0.0)).pixels()
    left, right = shown[24, 8].astype(int), shown[24, 56].astype(int)
    assert left.max() - left.min() <= 3 and left.mean() == pytest.approx(255 * (100 / 203) ** (1 / 2.4), abs=6)
    assert right[1] > 150 and right[0] < 60 and right[2] < 60
