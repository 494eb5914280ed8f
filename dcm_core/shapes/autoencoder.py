"""The fixed linear video autoencoder of the Shapes world.

Each block of 4 frames x 2 x 2 pixels x RGB (48 numbers) becomes 16 channels: the leading principal components of
rendered clips, each scaled to unit variance. Packing 4 frames into one latent makes the direction of motion visible
inside a token, as real video autoencoders do.
"""

from functools import cache
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

CHANNELS, TIME_FACTOR, SPACE_FACTOR = 16, 4, 2
_FILE = Path(__file__).parent / "weights" / "autoencoder.safetensors"
_BLOCKS = "b c (t f) (h p) (w q) -> b t h w (c f p q)"


@cache
def weights() -> dict[str, Tensor]:
    """The mean block, and the matrices to latents and back."""
    return load_file(_FILE)


def encode(clips: Tensor) -> Tensor:
    """Clips [B, 3, T, H, W] in -1..1 to latents [B, 16, T/4, H/2, W/2] of about unit variance."""
    frames, height, width = clips.shape[-3:]
    if frames % TIME_FACTOR or height % SPACE_FACTOR or width % SPACE_FACTOR:
        raise ValueError(f"A clip of {frames} frames of {width}x{height} does not divide into blocks of 4 x 2 x 2.")
    matrices = weights()
    blocks = rearrange(clips.float(), _BLOCKS, f=TIME_FACTOR, p=SPACE_FACTOR, q=SPACE_FACTOR)
    latents = (blocks - matrices["mean"].to(blocks)) @ matrices["encoder"].to(blocks)
    return latents.movedim(-1, 1)


def decode(latents: Tensor) -> Tensor:
    """Latents [B, 16, T, H, W] to clips [B, 3, 4T, 2H, 2W] in -1..1."""
    if latents.ndim != 5 or latents.shape[1] != CHANNELS:
        raise ValueError(f"Shapes latents are [B, {CHANNELS}, T, H, W], not {list(latents.shape)}.")
    matrices = weights()
    latents = latents.float().movedim(1, -1)
    blocks = latents @ matrices["decoder"].to(latents) + matrices["mean"].to(latents)
    clips = rearrange(
        blocks, "b t h w (c f p q) -> b c (t f) (h p) (w q)", f=TIME_FACTOR, p=SPACE_FACTOR, q=SPACE_FACTOR
    )
    return clips.clamp(-1, 1)


def latent_rgb_factors() -> tuple[list[list[float]], list[float]]:
    """(factors [16][3], bias [3]): the mean colour in -1..1 of a latent's block, for sampling previews."""
    decoder = rearrange(weights()["decoder"], "k (c n) -> k c n", c=3).mean(-1)
    bias = rearrange(weights()["mean"], "(c n) -> c n", c=3).mean(-1)
    return decoder.tolist(), bias.tolist()


def fit(clips: Tensor) -> dict[str, Tensor]:
    """The autoencoder's tensors from sample clips [B, 3, T, H, W], by principal components."""
    blocks = rearrange(clips.double(), _BLOCKS, f=TIME_FACTOR, p=SPACE_FACTOR, q=SPACE_FACTOR).flatten(0, 3)
    mean = blocks.mean(0)
    covariance = (blocks - mean).T @ (blocks - mean) / len(blocks)
    variance, axes = torch.linalg.eigh(covariance)
    axes, scale = axes[:, -CHANNELS:].flip(1), variance[-CHANNELS:].flip(0).sqrt()
    axes = axes * axes.sum(0).sign()  # eigenvectors have no sign of their own
    tensors = {"mean": mean, "encoder": axes / scale, "decoder": (axes * scale).T}
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


if __name__ == "__main__":
    from .captions import ALL_ATTRIBUTES
    from .render import render_clips

    save_file(fit(render_clips(ALL_ATTRIBUTES * 2, torch.Generator().manual_seed(0))), _FILE)
