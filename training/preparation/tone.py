"""High dynamic range and wide gamuts to ordinary video, by the formulas of ITU-R BT.2100, BT.2087 and BT.709."""

from __future__ import annotations

import torch
from torch import Tensor

PQ, HLG = 16, 18  # the codes of SMPTE ST 2084 and ARIB STD-B67 in ITU-T H.273
_WHITE = 203.0  # nits of diffuse white, ITU-R BT.2408
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
_KNEE = 0.8  # of white: below it nothing is changed but the coding
_LUMINANCE = (0.2627, 0.6780, 0.0593)  # of BT.2020's primaries
_GAMMA = 2.4  # of the display, by which BT.2087 goes from one gamut to the other
BT2020, P3 = 9, 12  # the codes of BT.2020's primaries and of SMPTE EG 432-1's in ITU-T H.273
_TO_709 = {
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    P3: ((1.2249, -0.2249, 0.0), (-0.0421, 1.0421, 0.0), (-0.0196, -0.0786, 1.0983)),
}


def to_standard(coded: Tensor, transfer: int) -> Tensor:
    """Coded BT.2020 values [..., 3] in 0..1 of PQ or HLG to BT.709 values in 0..1."""
    light = (from_pq(coded) if transfer == PQ else from_hlg(coded)) / _WHITE
    brightest = light.amax(-1, keepdim=True).clamp(min=1e-6)
    light = light * (_roll_off(brightest) / brightest)  # one factor for all three, so that hues stay
    return _coded(light, BT2020)


def from_wide(coded: Tensor, primaries: int) -> Tensor:
    """Coded values [..., 3] in 0..1 of ordinary range and these primaries to BT.709 values in 0..1."""
    return _coded(coded**_GAMMA, primaries)


def from_pq(coded: Tensor) -> Tensor:
    """Nits of values coded by the perceptual quantiser."""
    root = coded ** (32 / 2523)
    return 10_000 * ((root - 0.8359375).clamp(min=0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)


def from_hlg(coded: Tensor) -> Tensor:
    """Nits, on a display of 1000, of values coded by hybrid log-gamma."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(coded <= 0.5, coded.square() / 3, (((coded - c) / a).exp() + b) / 12)
    luminance = (scene @ scene.new_tensor(_LUMINANCE)).clamp(min=1e-6).unsqueeze(-1)
    return _HLG_PEAK * luminance ** (_HLG_GAMMA - 1) * scene


def _coded(light: Tensor, primaries: int) -> Tensor:
    """Light of these primaries, of which 1 is white, as BT.709 values in 0..1."""
    return (light @ light.new_tensor(_TO_709[primaries]).T).clamp(0, 1) ** (1 / _GAMMA)


def _roll_off(light: Tensor) -> Tensor:
    """Unchanged up to the knee, and from there on ever closer to 1, without a kink."""
    room = 1 - _KNEE
    return torch.where(light <= _KNEE, light, 1 - room * ((_KNEE - light) / room).exp())
