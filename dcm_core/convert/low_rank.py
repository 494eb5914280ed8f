"""The nearest low-rank pair to a matrix, and how far it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Up to here a full decomposition takes less than a second on one core.
_EXACT = 512
# Randomised range finding with a few powers of the matrix is as good as exact for spectra that fall.
_OVERSAMPLING, _POWERS = 16, 4


class Loss(NamedTuple):
    """What an approximation leaves out of a tensor: Frobenius norms of the rest and of the tensor."""

    rest: float
    total: float

    @property
    def relative(self) -> float:
        """Of an all-zero tensor nothing is lost."""
        return self.rest / self.total if self.total else 0.0

    @classmethod
    def together(cls, losses: Iterable[Loss]) -> Loss:
        """The loss of several tensors as one."""
        return cls(*(math.hypot(*norms) for norms in zip(*losses, strict=True)))


def smaller_than_full(rank: int, shape: tuple[int, ...]) -> bool:
    """Does a pair of this rank take less space than the [out, in] matrix?"""
    return len(shape) == 2 and rank * sum(shape) < shape[0] * shape[1]


def decompose(matrix: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Loss]:
    """``down`` [rank, in] and ``up`` [out, rank] in ``dtype`` nearest to a float32 matrix [out, in], by SVD.

    The singular values are shared evenly by the two. Equal matrices give equal pairs. ``matrix`` is overwritten.
    The loss is that of the pair as stored.
    """
    device = matrix.device
    if torch.cuda.is_available():
        matrix = matrix.cuda()
    total = float(torch.linalg.vector_norm(matrix))
    if min(matrix.shape) <= _EXACT:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            width = min(rank + _OVERSAMPLING, *matrix.shape)
            u, s, v = torch.svd_lowrank(matrix, q=width, niter=_POWERS)
        u, s, vh = u[:, :rank], s[:rank], v[:, :rank].T
    root = s.sqrt()
    up, down = (u * root).to(dtype), (root[:, None] * vh).to(dtype)
    rest = matrix.addmm_(up.float(), down.float(), alpha=-1)
    loss = Loss(float(torch.linalg.vector_norm(rest)), total)
    return down.contiguous().to(device), up.contiguous().to(device), loss
