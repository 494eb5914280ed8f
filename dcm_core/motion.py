"""How much a video moves: optical flow, and how much its pixels change from frame to frame.

Clips are [B, C, T, H, W], of values in -1..1.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

STILL = 0.02  # pixels a frame below which nothing moves: what is left is noise
_SLOW, _FAST = 0.75, 1.33  # shares of a reference's motion between which a video moves like it
_WINDOW, _ITERATIONS = 7, 4
_COARSEST = 12  # pixels of the shorter side at the top of the pyramid
_NOISE = 1e-4  # gradients whose mean square is less say nothing about motion
_FAINT = 1e-6  # the variance below which a window has no contrast that could change
_CUT = 4  # times the mean change of pixels, beyond which one that no motion explains is a cut
_LARGEST = 256  # pixels of the shorter side beyond which pictures are made smaller before their flow is measured


def optical_flow(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels of ``first`` are in ``second``, both [B, H, W]: by pyramidal Lucas-Kanade.

    Gives (flow [B, 2, H, W] as x and y in pixels, texture [B, H, W]). Flow is known where there is texture, the smaller
    eigenvalue of the gradients' products; without any it is what coarser levels say, and 0 on an empty picture. Another
    brightness or contrast is no motion: each window of ``second`` may have its own.
    """
    pyramid = [_smoothed(torch.cat([first, second])[:, None])]
    while min(pyramid[-1].shape[-2:]) >= 2 * _COARSEST:
        pyramid.append(_smoothed(pyramid[-1])[..., ::2, ::2])
    flow, texture = first.new_zeros(len(first), 2, *pyramid[-1].shape[-2:]), first
    for level in reversed(pyramid):
        start, end = level.chunk(2)
        x, y = _pixels(start)
        flow = 2 * _sampled(flow, x / 2, y / 2)
        flow, texture = _refined(start, end, flow)
    return flow, texture


def _refined(first: Tensor, second: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """One level: ``flow`` [B, 2, H, W] brought closer, and the texture [B, H, W]."""
    gradient = _gradient(first)
    x, y = _pixels(first)
    height, width = first.shape[-2:]
    before, texture = flow, first[:, 0]
    for _ in range(_ITERATIONS):
        to_x, to_y = x + flow[:, 0], y + flow[:, 1]
        inside = ((to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1))[:, None]
        # Each pixel of a window has a flow of its own already: what is solved for is the window's whole flow.
        told = (gradient * flow).sum(1, keepdim=True) - (_sampled(second, to_x, to_y) - first)
        xx, xy, x_told, yy, y_told = _unlit(first, gradient, told, inside)
        texture = (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()
        xx, yy = xx + _NOISE, yy + _NOISE
        x_told, y_told = x_told + _NOISE * flow[:, 0], y_told + _NOISE * flow[:, 1]
        solved = torch.stack([yy * x_told - xy * y_told, xx * y_told - xy * x_told], 1)
        flow = solved / (xx * yy - xy**2)[:, None]
        flow = before + (flow - before).clamp(-_WINDOW / 2, _WINDOW / 2)
    return flow, texture.clamp(min=0)


def _unlit(picture: Tensor, gradient: Tensor, told: Tensor, inside: Tensor) -> tuple[Tensor, ...]:
    """The windows' products xx, xy, x told, yy and y told, each [B, H, W], of the gradient and ``told``.

    What another brightness or contrast of the window explains, as in a fade, is taken out of both before: their
    regression on 1 and on ``picture``.
    """
    values = torch.cat([torch.ones_like(picture), picture, gradient, told], 1)
    rows, columns = torch.triu_indices(5, 5, device=picture.device)
    place = torch.zeros(5, 5, dtype=torch.long, device=picture.device)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=picture.device)
    products = _windows((values * inside)[:, rows] * values[:, columns])[:, place]
    for _ in range(2):
        among = products[:, :1, 1:]
        products = products[:, 1:, 1:] - among.transpose(1, 2) * among / (products[:, :1, :1] + _FAINT)
    return products[:, 0, 0], products[:, 0, 1], products[:, 0, 2], products[:, 1, 1], products[:, 1, 2]


def speeds(clips: Tensor) -> Tensor:
    """[B, T - 1]: how fast what has texture moves from each frame to the next, in pixels.

    A cut is no motion: it has the mean of the other steps.
    """
    height, width = clips.shape[-2:]
    grey = clips.float().mean(1)
    scale = min(1.0, _LARGEST / min(height, width))
    if scale < 1:
        grey = interpolate(grey, (round(scale * height), round(scale * width)), mode="area")
    if grey.shape[1] < 2:
        return grey.new_zeros(len(grey), 0)
    size = torch.tensor([width / grey.shape[-1], height / grey.shape[-2]], device=grey.device)[:, None, None]
    steps = [_step(first, second, size) for first, second in pairwise(grey.unbind(1))]
    speed, change, unexplained = (torch.stack(each, 1) for each in zip(*steps, strict=True))
    cut = (change > _CUT * change.mean(1, keepdim=True)) & (unexplained > change / 2)
    others = (speed * ~cut).sum(1, keepdim=True) / (~cut).sum(1, keepdim=True)
    return torch.where(cut, others, speed)


def _step(first: Tensor, second: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B] of two frames [B, H, W]: the speed, how much their pixels change, and what of that no flow explains.

    ``size`` [2, 1, 1]: of a pixel.
    """
    flow, texture = optical_flow(first, second)
    speed = ((flow * size).norm(dim=1) * texture).sum((1, 2)) / texture.sum((1, 2)).clamp(min=1e-12)
    x, y = _pixels(first[:, None])
    moved = _sampled(second[:, None], x + flow[:, 0], y + flow[:, 1])[:, 0]
    change, unexplained = ((each - first).abs().mean((1, 2)) for each in (second, moved))
    return speed, change, unexplained


def differences(clips: Tensor) -> Tensor:
    """[B, T - 1]: mean absolute difference of the pixels of each frame and the next."""
    return clips.float().diff(dim=2).abs().mean((1, 3, 4))


def difference_ratio(clips: Tensor, reference: Tensor) -> float:
    """How much the pixels of clips change from frame to frame, over how much the reference's do.

    0 is a still picture, 1 as much motion. Where the reference is still, there is nothing to compare: 1.
    """
    change, wanted = (float(differences(each).mean()) if each.shape[2] > 1 else 0.0 for each in (clips, reference))
    return change / wanted if wanted else 1.0


def temporal_error(clips: Tensor, reference: Tensor) -> Tensor:
    """[B]: the distance between the changes from frame to frame of clips and reference, over the reference's.

    0 is the same motion of the same picture, 1 is as far away as a still picture. 0 where both are still.
    """
    change, wanted = (each.float().diff(dim=2).flatten(1) for each in (clips, reference))
    return (change - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-9)


def describe(speed: float, reference: float | None = None) -> str:
    """A sentence about a video's mean speed in pixels a frame, or its share of a reference's."""
    if reference is None:
        return "The video stands still." if speed < STILL else f"The video moves {speed:.2f} pixels a frame."
    if reference < STILL:
        return "The reference stands still: no motion to compare."
    share = speed / reference
    word = "still" if speed < STILL else "slow" if share < _SLOW else "fast" if share > _FAST else "alike"
    return f"{share:.0%} of the reference's motion: {word}."


def _smoothed(picture: Tensor) -> Tensor:
    """A picture [B, 1, H, W] blurred a little: between its pixels, and on every second of them, it can be read then."""
    taps = picture.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    padded = pad(picture, (2, 2, 2, 2), mode="replicate")
    return conv2d(conv2d(padded, taps.view(1, 1, 1, 5)), taps.view(1, 1, 5, 1))


def _gradient(picture: Tensor) -> Tensor:
    """Scharr's gradient [B, 2, H, W] along x and y."""
    across = picture.new_tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]) / 32
    return conv2d(pad(picture, (1, 1, 1, 1), mode="replicate"), torch.stack([across, across.T])[:, None])


def _windows(values: Tensor) -> Tensor:
    """Means over the window around each pixel."""
    half = _WINDOW // 2
    rows = avg_pool2d(values, (_WINDOW, 1), 1, (half, 0), count_include_pad=False)
    return avg_pool2d(rows, (1, _WINDOW), 1, (0, half), count_include_pad=False)


def _pixels(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates x and y [H, W] of the pixels of a picture [B, C, H, W]."""
    height, width = picture.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=picture.device, dtype=picture.dtype),
        torch.arange(width, device=picture.device, dtype=picture.dtype),
        indexing="ij",
    )
    return x, y


def _sampled(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A picture [B, C, H, W] at coordinates ([B,] H, W) in pixels, between pixels by their neighbours."""
    height, width = picture.shape[-2:]
    places = torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], -1)
    places = places.expand(len(picture), *places.shape[-3:])
    return grid_sample(picture, places, mode="bilinear", padding_mode="border", align_corners=True)
