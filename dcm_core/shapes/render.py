"""Rendering of Shapes clips: a textured shape moving in a straight line over a shaded background.

Everything is analytic (signed distances with a soft edge), so positions are exact to a fraction of a pixel.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .captions import Attributes

FRAMES, SIZE = 16, 24
FRAMES_PER_SECOND = 8

RGB = {
    "red": (0.95, 0.15, 0.15),
    "green": (0.15, 0.85, 0.20),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
}
HEADING = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
PIXELS_PER_FRAME = {"slowly": 0.3, "fast": 0.8}
RADIUS = 5.5  # no part of a shape is further than this from its centre
TEXTURE_PERIOD = 5.0  # pixels
_EDGE = 0.35  # softness of the outline in pixels
_DARK = 0.35  # brightness of the dark part of a texture


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance in pixels to the outline of a shape centred (by area) at the origin, negative inside."""
    if shape == "circle":
        return (x.square() + y.square()).sqrt() - 5.0
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 4.4
    if shape == "triangle":  # equilateral, pointing up; the inradius is half the circumradius
        half = math.sqrt(3) / 2
        return torch.maximum(y, half * x.abs() - 0.5 * y) - 3.0
    raise ValueError(f"Unknown shape {shape!r}.")


def brightness(texture: str, x: Tensor, y: Tensor) -> Tensor:
    """Brightness factor in 0..1 of a texture that is fixed to its shape; x, y in pixels from the centre."""
    if texture == "plain":
        return torch.ones_like(x)
    if texture == "striped":  # diagonal, so that stripes move with every direction
        wave = torch.sin(2 * math.pi * (x + y) / TEXTURE_PERIOD)
    elif texture == "dotted":
        wave = torch.cos(2 * math.pi * x / TEXTURE_PERIOD) + torch.cos(2 * math.pi * y / TEXTURE_PERIOD) - 0.3
    else:
        raise ValueError(f"Unknown texture {texture!r}.")
    return _DARK + (1 - _DARK) * torch.sigmoid(4 * wave)


def coverage(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """How much of a pixel the shape covers, 0..1."""
    return torch.sigmoid(-signed_distance(shape, x, y) / _EDGE)


def pixel_grid(centres: Tensor, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Pixel coordinates relative to centres [..., 2] as (x, y), each [..., size, size]."""
    axis = torch.arange(size, dtype=centres.dtype) + 0.5
    x = axis[None, :] - centres[..., 0, None, None]
    y = axis[:, None] - centres[..., 1, None, None]
    return x.expand(*x.shape[:-2], size, size), y.expand(*y.shape[:-2], size, size)


def path(attributes: Attributes, start: Tensor, frames: int = FRAMES) -> Tensor:
    """Centres [frames, 2] in pixels of a shape that begins at start [2]."""
    velocity = torch.tensor(HEADING[attributes.direction]) * PIXELS_PER_FRAME[attributes.speed]
    return start + torch.arange(frames)[:, None] * velocity


def random_start(attributes: Attributes, generator: torch.Generator) -> Tensor:
    """A starting point [2] from which the whole path stays inside the picture."""
    travel = path(attributes, torch.zeros(2))[-1]
    low = RADIUS - travel.clamp(max=0)
    high = SIZE - RADIUS - travel.clamp(min=0)
    return low + (high - low) * torch.rand(2, generator=generator)


def render_clip(attributes: Attributes, generator: torch.Generator) -> Tensor:
    """One clip [3, FRAMES, SIZE, SIZE] in -1..1 with a random start and a random shaded background."""
    start = random_start(attributes, generator)
    level, tilt_x, tilt_y = torch.rand(3, generator=generator).tolist()
    x, y = pixel_grid(path(attributes, start))
    mask = coverage(attributes.shape, x, y)
    paint = brightness(attributes.texture, x, y)

    ramp_x, ramp_y = pixel_grid(torch.full((2,), SIZE / 2))
    background = 0.15 + 0.25 * level + (0.2 * (tilt_x - 0.5) * ramp_x + 0.2 * (tilt_y - 0.5) * ramp_y) * 2 / SIZE
    colour = torch.tensor(RGB[attributes.colour])[:, None, None, None]
    picture = mask * paint * colour + (1 - mask) * background
    return picture * 2 - 1


def render_clips(attributes: Sequence[Attributes], generator: torch.Generator) -> Tensor:
    """Clips [B, 3, FRAMES, SIZE, SIZE] in -1..1."""
    return torch.stack([render_clip(each, generator) for each in attributes])
