"""The numbers of the Shapes backbone are those of the shipped teacher and of the shipped clips."""

import torch
from safetensors import safe_open

from dcm_core.shapes import autoencoder, network, weights
from dcm_core.shapes.captions import ALL_ATTRIBUTES
from dcm_core.shapes.render import render_clips


def test_the_architecture_is_the_shipped_teachers():
    sizes = network.ARCHITECTURE
    with safe_open(weights.teacher(), "pt") as file:
        blocks = {name.split(".")[1] for name in file.keys() if name.startswith("blocks.")}
        ffn = file.get_slice("blocks.0.ffn.0.weight").get_shape()
    assert len(blocks) == sizes["num_layers"]
    assert ffn == [sizes["ffn_dim"], sizes["num_attention_heads"] * sizes["attention_head_dim"]]


def test_latents_have_the_shape_of_an_encoded_clip():
    clip = render_clips(ALL_ATTRIBUTES[:1], torch.Generator().manual_seed(0))
    assert autoencoder.encode(clip).shape == (1, *network.LATENT_SHAPE)
