"""The colours of FFmpeg's frames as those of BT.709, which is what networks were trained on and screens show.

Matrices, curves and primaries are named by their codes in ITU-T H.273.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import tone
from .filters import Unfit

_UNSPECIFIED, _BT709, _BT601, _BT2020 = 2, 1, 5, 9
_LARGE = 720  # lines: what does not say is BT.709 from there on
_MATRICES = {0, _UNSPECIFIED, _BT709, 4, _BT601, 6, 7, _BT2020}  # that FFmpeg converts
_OTHER_CURVES = {8, 9, 10, 17}  # linear, logarithmic, and that of cinemas
_USUAL_PRIMARIES = {0, _UNSPECIFIED, _BT709, 5, 6, 7, 22}  # so near to each other that players show them alike
_DOLBY = ("dvh1", "dvhe", "dva1", "dvav", "dav1")  # Dolby Vision without an ordinary picture below it


def check_colours(frame: Any, codec: Any) -> None:
    """Raises Unfit where the colours of a frame would come out wrong."""
    transfer, primaries = codec.color_trc, codec.color_primaries
    high = transfer in (tone.PQ, tone.HLG)
    known = (tone.BT2020, _UNSPECIFIED) if high else (*_USUAL_PRIMARIES, tone.BT2020, tone.P3)
    if codec.codec_tag in _DOLBY:
        raise Unfit("colours", "it is Dolby Vision alone, which is not converted")
    if frame.colorspace not in _MATRICES or transfer in _OTHER_CURVES or primaries not in known:
        raise Unfit(
            "colours",
            f"its colours are not converted: matrix {frame.colorspace}, curve {transfer} and primaries {primaries} of "
            "ITU-T H.273",
        )


def rgb(frame: Any, codec: Any) -> np.ndarray:
    """BT.709 pixels, uint8 [H, W, 3]."""
    transfer, primaries = codec.color_trc, codec.color_primaries
    if transfer in (tone.PQ, tone.HLG):
        return _bytes(tone.to_standard(_fine(frame, _BT2020), transfer))
    usual = _BT709 if frame.height >= _LARGE else _BT601
    if primaries in (tone.BT2020, tone.P3):
        return _bytes(tone.from_wide(_fine(frame, usual), primaries))
    return frame.to_ndarray(format="rgb24", src_colorspace=_matrix(frame, usual))


def _fine(frame: Any, usual: int) -> torch.Tensor:
    """Coded values [H, W, 3] in 0..1, of 16 bits."""
    coded = frame.reformat(format="rgb48le", src_colorspace=_matrix(frame, usual)).to_ndarray()
    return torch.from_numpy(coded.astype(np.float32) / 65535)


def _bytes(values: torch.Tensor) -> np.ndarray:
    return (values * 255).round().byte().numpy()


def _matrix(frame: Any, usual: int) -> int:
    """By which a frame's YUV is made RGB; most files do not say."""
    return usual if frame.colorspace in (0, _UNSPECIFIED) else frame.colorspace
