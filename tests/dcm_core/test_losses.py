import math

import pytest
import torch

from dcm_core import losses


def latents(seed: int, frames: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, frames, 2, 2, generator=generator, dtype=torch.float64)


def filled(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def test_pseudo_huber_by_hand():
    target = torch.zeros(1, 1, 1, 1, 2, dtype=torch.float64)
    prediction = torch.tensor([0.003, -0.004], dtype=torch.float64).view(1, 1, 1, 1, 2)
    expected = (math.sqrt(9e-6 + 16e-6) - 0.004 + math.sqrt(16e-6 + 16e-6) - 0.004) / 2
    assert losses.pseudo_huber(prediction, target, c=0.004).item() == pytest.approx(expected, rel=1e-12)


def test_pseudo_huber_is_the_absolute_value_far_above_c_and_a_parabola_far_below():
    target = filled(0.0, 1, 1, 1, 1, 1)
    assert losses.pseudo_huber(target + 2, target).item() == pytest.approx(2 - 0.001, abs=1e-6)
    assert losses.pseudo_huber(target + 1e-5, target).item() == pytest.approx(1e-10 / 0.002, rel=1e-3)
    assert losses.pseudo_huber(target, target).item() == 0


def test_temporal_coherence_by_hand():
    # One pixel over five frames; lag 3 makes the pairs (0, 3) and (1, 4).
    prediction = torch.tensor([0.0, 1.0, 5.0, 2.0, 7.0], dtype=torch.float64).view(1, 1, 5, 1, 1)
    target = torch.tensor([1.0, 1.0, 9.0, 2.0, 3.0], dtype=torch.float64).view(1, 1, 5, 1, 1)
    # motions: (2, 6) against (1, 2): squares 1 and 16
    assert losses.temporal_coherence(prediction, target).item() == pytest.approx(8.5)
    # lag 4 leaves the pair (0, 4): 7 against 2
    assert losses.temporal_coherence(prediction, target, lag=4).item() == pytest.approx(25.0)


def test_temporal_coherence_sees_motion_only():
    clip = latents(0)
    assert losses.temporal_coherence(clip, clip).item() == 0
    still = latents(1)[:, :, :1]
    assert losses.temporal_coherence(clip + still, clip).item() == pytest.approx(0, abs=1e-25)
    assert losses.temporal_coherence(clip.flip(2), clip).item() > 0.1


@pytest.mark.parametrize("frames", [1, 3])
def test_temporal_coherence_of_a_clip_without_frame_pairs_is_zero(frames):
    clip = latents(0, frames).requires_grad_()
    loss = losses.temporal_coherence(clip, latents(1, frames))
    assert loss.item() == 0 and not torch.isnan(loss)


def test_hinge_by_hand():
    fake = [torch.tensor([0.5, -2.0]), torch.tensor([[3.0]])]
    real = [torch.tensor([0.25, 4.0]), torch.tensor([[-1.0]])]
    # heads: mean(.5, 3) = 1.75 and 0
    assert losses.hinge_generator(fake).item() == pytest.approx(0.875)
    # head 1: mean(1.5, 0) + mean(.75, 0) = 1.125; head 2: 4 + 2
    assert losses.hinge_discriminator(fake, real).item() == pytest.approx((1.125 + 6) / 2)


def test_hinge_of_an_undecided_and_of_a_perfect_discriminator():
    zeros = [torch.zeros(2, 3)]
    assert losses.hinge_discriminator(zeros, zeros).item() == 2
    assert losses.hinge_discriminator([zeros[0] - 1], [zeros[0] + 1]).item() == 0


def test_feature_matching_by_hand_and_without_gradient_into_the_real_side():
    fake = [filled(1.0, 1, 2).requires_grad_(), filled(0.0, 3).requires_grad_()]
    real = [filled(3.0, 1, 2).requires_grad_(), filled(1.0, 3).requires_grad_()]
    loss = losses.feature_matching(fake, real)
    assert loss.item() == pytest.approx((4 + 1) / 2)
    loss.backward()
    assert fake[0].grad is not None and real[0].grad is None


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: losses.pseudo_huber(x, latents(1), c=0.5),
        lambda x: losses.temporal_coherence(x, latents(1)),
        lambda x: losses.hinge_generator([x, 2 * x[0]]),
        lambda x: losses.hinge_discriminator([x], [3 * x + 0.1]),
        lambda x: losses.feature_matching([x, x.square()], [latents(1), latents(2)]),
    ],
    ids=["pseudo_huber", "temporal_coherence", "hinge_generator", "hinge_discriminator", "feature_matching"],
)
def test_gradients_agree_with_finite_differences(loss):
    x = latents(3).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = latents(4)
    step = 1e-6
    with torch.no_grad():
        difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert difference.abs().item() > 1e-4, "the test direction must not be flat"
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-6)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        losses.pseudo_huber(latents(0), latents(0)[:1])
    with pytest.raises(ValueError, match="shapes differ"):
        losses.temporal_coherence(latents(0), latents(0)[:, :, :1])
    with pytest.raises(ValueError, match="1 feature layers .* 2"):
        losses.feature_matching([latents(0)], [latents(0), latents(0)])
    with pytest.raises(ValueError, match="no discriminator head"):
        losses.hinge_generator([])
