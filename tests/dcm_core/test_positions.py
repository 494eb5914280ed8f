"""CogVideoX's positions against those that diffusers computes for the released models."""

import pytest
import torch

from dcm_core.positions import rotary_angles, sine_table

SIZES = [(13, 30, 45), (4, 12, 20), (3, 30, 20), (2, 4, 4), (1, 60, 90)]


@pytest.mark.parametrize("size", SIZES)
def test_rotary_angles_of_5b(size):
    pipeline = pytest.importorskip("diffusers.pipelines.cogvideo.pipeline_cogvideox")
    frames, *grid = size
    region = pipeline.get_resize_crop_region_for_grid(tuple(grid), 45, 30)
    theirs = pipeline.get_3d_rotary_pos_embed(64, region, tuple(grid), frames)
    for ours, expected in zip(rotary_angles(*size, 64), theirs, strict=True):
        assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_sine_table_of_2b(size):
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    frames, rows, columns = size
    theirs = embeddings.get_3d_sincos_pos_embed(1920, (columns, rows), frames, 1.875, 1.0, output_type="pt")
    expected = theirs.flatten(0, 1).float()
    assert torch.allclose(sine_table(*size, 1920), expected, rtol=0, atol=1e-5)
