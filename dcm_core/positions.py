"""Where CogVideoX 1.0 places the tokens of a video, as its releases do it in diffusers.

ComfyUI's own class (0.20 to 0.33) agrees with them for the 1.5 models only. Frames, rows and columns below count
tokens: a latent frame each, and 2 x 2 latent pixels of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Tokens of the 480 x 720 that all the 1.0 models were trained at.
TRAINED_ROWS, TRAINED_COLUMNS = 30, 45
# 2B's positions are this many times closer together than its tokens.
INTERPOLATION = 1.875


def rotary_angles(
    frames: int, rows: int, columns: int, head_dim: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """5B: (cos, sin) [frames * rows * columns, head_dim] by which each pair of a head's channels is turned.

    A video of another size lies centred on the trained one and reaches to its nearer pair of edges.
    """
    scale = min(TRAINED_ROWS / rows, TRAINED_COLUMNS / columns)
    time = _angles(torch.arange(frames, device=device), head_dim // 4)
    down = _angles(_centred(rows, scale, TRAINED_ROWS, device), head_dim // 8 * 3)
    across = _angles(_centred(columns, scale, TRAINED_COLUMNS, device), head_dim // 8 * 3)
    angles = torch.cat(_over_video(time, down, across), dim=-1).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def sine_table(frames: int, rows: int, columns: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """2B: what is added to the tokens, [frames * rows * columns, width]."""
    time = _waves(torch.arange(frames, device=device), width // 4)
    down = _waves(torch.arange(rows, device=device) / INTERPOLATION, width * 3 // 8)
    across = _waves(torch.arange(columns, device=device) / INTERPOLATION, width * 3 // 8)
    time, down, across = _over_video(time, down, across)
    return torch.cat([time, across, down], dim=-1)  # in this order, unlike the rotary angles


def _centred(count: int, scale: float, trained: int, device: torch.device | str) -> Tensor:
    """``count`` positions, ``scale`` apart but for rounding, in the middle of the trained ones."""
    length = round(scale * count)
    start = round((trained - length) / 2)
    return torch.linspace(start, (start + length) * (count - 1) / count, count, device=device)


def _angles(positions: Tensor, width: int) -> Tensor:
    """[positions, width / 2]: slower from channel to channel."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return torch.outer(positions.to(torch.float32), 10000.0**-exponents)


def _waves(positions: Tensor, width: int) -> Tensor:
    angles = _angles(positions, width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _over_video(time: Tensor, down: Tensor, across: Tensor) -> list[Tensor]:
    """What stands for each frame, row and column, for every token: [frames * rows * columns, channels] each."""
    shape = len(time), len(down), len(across)
    views = time[:, None, None], down[None, :, None], across[None, None]
    return [view.expand(*shape, -1).flatten(0, 2) for view in views]
