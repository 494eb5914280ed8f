"""The Frechet distance between two sets of clips, on features that are made by hand and named with it."""

from __future__ import annotations

import torch
from torch import Tensor

FEATURES = (
    "24 hand-made numbers a clip (in each quarter of the picture: mean red, green and blue, contrast, gradients, "
    "change from frame to frame), in units of their spread over the reference's clips"
)
_CELLS = 2  # a side


def pooled(clips: Tensor) -> Tensor:
    """The features [N, 24] of clips [N, 3, T, H, W] in -1..1."""
    clips = clips.float()
    grey = clips.mean(1)
    gradients = grey.diff(dim=-1)[..., :-1, :].abs() + grey.diff(dim=-2)[..., :-1].abs()
    changes = grey.diff(dim=1).abs() if grey.shape[1] > 1 else torch.zeros_like(grey)
    means = [_cells(each).mean(-1) for each in (*clips.unbind(1), gradients, changes)]
    return torch.cat([*means, _cells(grey).std(-1)], 1)


def frechet(features: Tensor, reference: Tensor) -> Tensor:
    """[...]: the distance between normal distributions fitted to features [..., N, D] and reference [M, D].

    ``|mean - mean'|^2 + trace(S + S' - 2 (S S')^(1/2))``, in units of the reference's spread.
    """
    spread = reference.double().std(0).clamp(min=1e-6)
    features, reference = features.double() / spread, reference.double() / spread
    mean, wanted = features.mean(-2), reference.mean(-2)
    covariance, root = _covariance(features), _root(_covariance(reference))
    product = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum(-1)
    traces = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) + (root @ root).diagonal().sum()
    return ((mean - wanted).square().sum(-1) + traces - 2 * product).clamp(min=0)


def _cells(frames: Tensor) -> Tensor:
    """Frames [N, T, H, W] as [N, cells, all that is in a cell]; an odd row or column at the end is left out."""
    height, width = (size - size % _CELLS for size in frames.shape[-2:])
    parts = frames[..., :height, :width].unflatten(-1, (_CELLS, -1)).unflatten(-3, (_CELLS, -1))
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(-2, keepdim=True)
    return centred.transpose(-2, -1) @ centred / max(1, features.shape[-2] - 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
