"""The size of the Shapes backbone, a network of the Wan class, and of the latents it works on: plain numbers."""

from __future__ import annotations

from . import autoencoder, render

# Under the names of Wan's own configuration files. The rest is as in every Wan.
ARCHITECTURE = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "num_layers": 5}

# Channels, frames, height and width of a clip's latents: (16, 4, 12, 12).
LATENT_SHAPE = (
    autoencoder.CHANNELS,
    render.FRAMES // autoencoder.TIME_FACTOR,
    render.SIZE // autoencoder.SPACE_FACTOR,
    render.SIZE // autoencoder.SPACE_FACTOR,
)
