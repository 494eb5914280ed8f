"""How a video says that its pictures are to be turned or mirrored: cameras write them as their sensor lies."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import SideDataContainer

from .filters import Unfit

_SLACK = 1.0  # degrees by which a quarter turn may be off


class Orientation(NamedTuple):
    """``mirrored``: left and right are exchanged; ``quarters``: turned so often to the left after that."""

    mirrored: bool = False
    quarters: int = 0

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [H, W, 3] as they are to be shown."""
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters))


def orientation(frame: Any) -> Orientation:
    """Of a frame of FFmpeg's. Raises Unfit where it is to be shown slanted."""
    a, b, c, d = _display_matrix(frame)
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b  # what is left of it is a turn
    degrees = math.degrees(math.atan2(-b, a))
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) > _SLACK:
        raise Unfit("unreadable", f"it is to be shown turned by {abs(degrees):.0f} degrees")
    return Orientation(mirrored, quarters % 4)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d): a point (x, y) is shown at (ax + cy, bx + dy); ISO/IEC 14496-12, 8.3.2."""
    # frame.side_data would keep the frame alive until the garbage is collected
    container: Any = SideDataContainer
    try:
        told = container(frame).get("DISPLAYMATRIX")
    except ValueError:  # among its side data is a kind that PyAV does not know, which hides the others
        angle = math.radians(frame.rotation)
        a, b = round(1000 * math.cos(angle)), -round(1000 * math.sin(angle))
        return a, b, -b, a
    if told is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack_from("=5i", bytes(told))
    return a, b, c, d
