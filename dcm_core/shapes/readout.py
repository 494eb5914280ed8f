"""What a Shapes clip shows, read from its pixels by geometry alone: no trained judge.

The background is grey, so colour saturation finds the shape; its centroid gives the path, and the rendered
templates at that path name shape and texture. A clip that matches no template shows no shape, and counts as wrong.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .captions import COLOURS, SHAPES, SPEEDS, TEXTURES, Attributes
from .render import HEADING, PIXELS_PER_FRAME, RGB, TEXTURE_PERIOD, brightness, coverage, pixel_grid

NOTHING = "none"
_MINIMUM_MATCH = 0.6  # correlation with the best template below which there is no shape to speak of
_MINIMUM_SPEED = 0.1  # pixels a frame below which a clip stands still
_OFFSETS = torch.cartesian_prod(*[torch.linspace(-0.8, 0.8, 5)] * 2)  # of an outline from its centroid
_PHASES = torch.cartesian_prod(*[torch.arange(0, TEXTURE_PERIOD, TEXTURE_PERIOD / 6)] * 2)


@dataclass(frozen=True)
class Reading:
    """A clip's attributes ("none" where there is nothing to see) and its measures.

    match: correlation with the best template, 1 is perfect. velocity: (x, y) in pixels a frame. jitter: root mean
    square distance in pixels of the centroid from a straight line. sharpness: gradient energy inside the shape over
    that of the best template, 1 is perfect.
    """

    attributes: Attributes
    match: float
    velocity: tuple[float, float]
    jitter: float
    sharpness: float

    def motion_error(self, prompted: Attributes) -> float:
        """Distance in pixels a frame between the measured and the prompted velocity."""
        speed = PIXELS_PER_FRAME[prompted.speed]
        wanted = torch.tensor(HEADING[prompted.direction]) * speed
        return float((torch.tensor(self.velocity) - wanted).norm())


def read_clip(clip: Tensor) -> Reading:
    """Read one clip [3, T, H, W] in -1..1."""
    rgb = (clip.float() + 1) / 2
    saturation = rgb.amax(0) - rgb.amin(0)  # [T, H, W]; grey is 0
    weight = (saturation - 0.12).clamp(0, 0.12) / 0.12  # flat inside the shape, so that texture does not pull
    if (weight.sum((1, 2)) < 8).any():
        return Reading(Attributes(*[NOTHING] * 5), 0.0, (0.0, 0.0), float("inf"), 0.0)

    centres = _centroids(weight)
    velocity, jitter = _straight_line(centres)
    shape, centres = _best_shape(weight, centres)
    texture, match, sharpness = _best_texture(shape, saturation, centres)
    seen = match >= _MINIMUM_MATCH
    attributes = Attributes(
        colour=_colour(rgb, saturation) if seen else NOTHING,
        texture=texture if seen else NOTHING,
        shape=shape if seen else NOTHING,
        direction=_direction(velocity),
        speed=_speed(velocity),
    )
    return Reading(attributes, match, (float(velocity[0]), float(velocity[1])), jitter, sharpness)


def read_clips(clips: Tensor) -> list[Reading]:
    """Read clips [B, 3, T, H, W] in -1..1."""
    return [read_clip(clip) for clip in clips]


def _centroids(weight: Tensor) -> Tensor:
    """Centres [T, 2] as (x, y) of a mask [T, H, W]."""
    x, y = pixel_grid(torch.zeros(2), weight.shape[-1])
    total = weight.sum((1, 2))
    return torch.stack([(weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total], -1)


def _straight_line(centres: Tensor) -> tuple[Tensor, float]:
    """Least-squares velocity [2] of centres [T, 2] and the root mean square distance from that line."""
    time = torch.arange(len(centres), dtype=torch.float32)
    time = time - time.mean()
    velocity = (time[:, None] * centres).sum(0) / time.square().sum()
    residual = centres - centres.mean(0) - time[:, None] * velocity
    return velocity, float(residual.square().sum(-1).mean().sqrt())


def _best_shape(mask: Tensor, centres: Tensor) -> tuple[str, Tensor]:
    """The shape whose outline fits a mask [T, H, W] best, and its centres [T, 2]."""
    best = ("", centres, -1.0)
    x, y = pixel_grid(centres[:, None] + _OFFSETS, mask.shape[-1])  # [T, offsets, H, W]
    for shape in SHAPES:
        fit = _correlation(coverage(shape, x, y), mask[:, None]).mean(0)
        offset = int(fit.argmax())
        if fit[offset] > best[2]:
            best = (shape, centres + _OFFSETS[offset], float(fit[offset]))
    return best[:2]


def _best_texture(shape: str, saturation: Tensor, centres: Tensor) -> tuple[str, float, float]:
    """(texture, correlation, sharpness) of the template that fits the saturation [T, H, W] best.

    The texture may lie anywhere on the shape, frame by frame: its kind is asked for, not its phase.
    """
    best = ("", -1.0, 0.0)
    mask = coverage(shape, *pixel_grid(centres, saturation.shape[-1]))[:, None]
    x, y = pixel_grid(centres[:, None] + _PHASES, saturation.shape[-1])  # [T, phases, H, W]
    for texture in TEXTURES:
        template = mask * brightness(texture, x, y)
        fit, phase = _correlation(template, saturation[:, None]).max(1)
        if fit.mean() > best[1]:
            fitted = template[torch.arange(len(phase)), phase]
            scale = (fitted * saturation).sum() / fitted.square().sum()
            sharpness = _gradient_energy(saturation) / _gradient_energy(fitted * scale)
            best = (texture, float(fit.mean()), float(sharpness))
    return best


def _correlation(template: Tensor, picture: Tensor) -> Tensor:
    """Pearson correlation over space of [T, N, H, W] with [T, 1, H, W], [T, N]."""
    template = template - template.mean((2, 3), keepdim=True)
    picture = picture - picture.mean((2, 3), keepdim=True)
    product = (template * picture).sum((2, 3))
    return product / (template.square().sum((2, 3)) * picture.square().sum((2, 3))).sqrt().clamp(min=1e-9)


def _gradient_energy(picture: Tensor) -> Tensor:
    return picture.diff(dim=-1).square().sum() + picture.diff(dim=-2).square().sum()


def _colour(rgb: Tensor, saturation: Tensor) -> str:
    """The nearest colour by hue, of the most saturated half of the shape."""
    pixels = rgb.flatten(1)[:, saturation.flatten() > saturation.max() / 2].mean(1)
    hue = _hue(pixels)
    return max(COLOURS, key=lambda name: float(hue @ _hue(torch.tensor(RGB[name]))))


def _hue(rgb: Tensor) -> Tensor:
    chroma = rgb - rgb.mean()
    return chroma / chroma.norm().clamp(min=1e-9)


def _direction(velocity: Tensor) -> str:
    if velocity.norm() < _MINIMUM_SPEED:
        return NOTHING
    return max(HEADING, key=lambda name: float(velocity @ torch.tensor(HEADING[name])))


def _speed(velocity: Tensor) -> str:
    speed = float(velocity.norm())
    if speed < _MINIMUM_SPEED:
        return NOTHING
    return min(SPEEDS, key=lambda name: abs(speed - PIXELS_PER_FRAME[name]))
