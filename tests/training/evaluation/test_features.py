"""Frechet's distance: 0 to itself, the textbook's for known distributions, and larger for what differs more."""

import pytest
import torch

from dcm_core.shapes.render import render_clips
from training.evaluation.features import FEATURES, frechet, pooled
from training.shapes.compare import choose_prompts


def normal(count, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, 3, generator=generator, dtype=torch.float64) + shift


def test_known_distributions():
    reference = normal(20000, 0)
    assert frechet(reference, reference) == pytest.approx(0, abs=1e-9)
    assert frechet(normal(20000, 1), reference) == pytest.approx(0, abs=0.01)
    assert frechet(normal(20000, 1, shift=2.0), reference) == pytest.approx(3 * 4, rel=0.02)
    assert frechet(normal(20000, 1, scale=3.0), reference) == pytest.approx(3 * (3 - 1) ** 2, rel=0.03)
    stacked = torch.stack([reference, normal(20000, 1, shift=2.0)])
    assert frechet(stacked, reference).tolist() == pytest.approx([0, 12], abs=0.2)


def test_features_know_colour_blur_and_motion():
    prompts = choose_prompts(64, 0)
    clips, others = (render_clips(prompts, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    real = pooled(clips)
    assert real.shape == (64, 24) and "24 hand-made numbers" in FEATURES
    near = frechet(pooled(others), real)
    blurred = torch.nn.functional.avg_pool3d(others, (1, 5, 5), 1, (0, 2, 2))
    frozen = others[:, :, :1].expand_as(others)
    red = others * torch.tensor([1.0, 0.2, 0.2]).view(3, 1, 1, 1)
    for changed in (blurred, frozen, red):
        assert frechet(pooled(changed), real) > 2 * near


def test_pictures_of_odd_sizes_and_single_frames_have_features():
    assert torch.isfinite(pooled(torch.rand(2, 3, 1, 25, 31))).all()
