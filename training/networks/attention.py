"""Which of PyTorch's exact kinds of attention a call may take."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_WITH_GRADIENTS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention() -> AbstractContextManager[object]:
    """Calls without gradients, the teacher's and the target's, take what PyTorch finds the fastest; others not cuDNN's.

    On H100 and H200 that is cuDNN's by default, whose backward pass gives NaN for some masks and lengths
    (pytorch#196678) and for other inputs (cudnn-frontend#160, #1072). The kind that a call takes is its gradients' too.
    """
    return sdpa_kernel(_WITH_GRADIENTS) if torch.is_grad_enabled() else nullcontext()
