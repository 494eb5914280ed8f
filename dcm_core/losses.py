"""The losses of the Dual-Expert Consistency Model (DCM, arXiv 2506.03123), one small pure function each.

Latents are ``[B, C, T, H, W]``; ``prediction`` is the student's jump along the trajectory and ``target`` the
stop-gradient jump that starts one teacher step further on. Every function returns a scalar mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def pseudo_huber(prediction: Tensor, target: Tensor, c: float = 0.001) -> Tensor:
    """Consistency loss: ``mean( sqrt((prediction - target)^2 + c^2) - c )`` (DCM, consistency distillation).

    Quadratic for differences far below ``c`` and the absolute value far above it.
    Both ``[B, C, T, H, W]``; raises ValueError on different shapes, which would otherwise broadcast unseen.
    """
    _same_shape(prediction, target)
    return (((prediction - target).square() + c * c).sqrt() - c).mean()


def temporal_coherence(prediction: Tensor, target: Tensor, lag: int = 3) -> Tensor:
    """Temporal coherence loss of the semantic expert (DCM, L_TC), with ``t`` counting latent frames:

    ``mean( ( (prediction[t + lag] - prediction[t]) - (target[t + lag] - target[t]) )^2 )``

    It sees how the latent changes and is blind to what stands still. Both ``[B, C, T, H, W]``.
    With ``T <= lag`` there is no pair of frames and the loss is exactly 0 (the caller tells the user, once).
    """
    _same_shape(prediction, target)
    if lag < 1:
        raise ValueError(f"temporal coherence needs a lag of at least one latent frame, got {lag}")
    if prediction.shape[2] <= lag:
        return prediction.new_zeros(())
    motion = prediction[:, :, lag:] - prediction[:, :, :-lag]
    target_motion = target[:, :, lag:] - target[:, :, :-lag]
    return (motion - target_motion).square().mean()


def hinge_generator(fake_logits: Sequence[Tensor]) -> Tensor:
    """Adversarial loss of the student: mean over heads of ``mean( relu(1 - D(fake)) )``.

    One tensor of logits per discriminator head, any shape. It saturates at logits of 1 and above.
    """
    _some(fake_logits)
    return torch.stack([(1 - logits).relu().mean() for logits in fake_logits]).mean()


def hinge_discriminator(fake_logits: Sequence[Tensor], real_logits: Sequence[Tensor]) -> Tensor:
    """Discriminator loss: mean over heads of ``mean( relu(1 + D(fake)) ) + mean( relu(1 - D(real)) )``.

    Exactly 2 for a discriminator that answers 0 everywhere, 0 for one that separates by the full margin.
    """
    _paired(fake_logits, real_logits)
    pairs = zip(fake_logits, real_logits, strict=True)
    return torch.stack([(1 + fake).relu().mean() + (1 - real).relu().mean() for fake, real in pairs]).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of the teacher's features, mean over layers and elements (DCM, L_FM).

    The features are each layer's tokens seen through the teacher's output head, so velocities
    ``[B, C, T, H, W]``; ``real`` carries no gradient.
    """
    _paired(fake, real)
    for one, other in zip(fake, real, strict=True):
        _same_shape(one, other)
    pairs = zip(fake, real, strict=True)
    return torch.stack([(one - other.detach()).square().mean() for one, other in pairs]).mean()


def _same_shape(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"shapes differ: {tuple(prediction.shape)} against {tuple(target.shape)}")


def _some(logits: Sequence[Tensor]) -> None:
    if not len(logits):
        raise ValueError("no discriminator head: the backbone gave no feature layer")


def _paired(fake: Sequence[Tensor], real: Sequence[Tensor]) -> None:
    _some(fake)
    if len(fake) != len(real):
        raise ValueError(f"{len(fake)} feature layers of the fake against {len(real)} of the real clip")
