"""cuDNN's attention, whose backward pass can give NaN, is for calls without gradients."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Allowed(TorchDispatchMode):
    """Notes at each attention whether cuDNN's may be taken."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "_scaled_dot_product" in str(function) and "backward" not in str(function):
            self.seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("stride", [0, 1])
def test_calls_with_gradients_leave_it_out_and_what_is_computed_again_too(trainer, checkpointing, stride):
    method = trainer("detail", {"mode": "adapter"}, compute={"checkpointing": checkpointing}).method
    batch = method.data.batch(method.draws(0))
    x, t = batch.latents.requires_grad_(), torch.full((len(batch.latents),), 500.0)
    with Allowed() as with_gradients:
        velocity, features = method.student(x, t, batch.conditions, stride)
        (velocity.sum() if features is None else features.velocities[0].sum()).backward()
    with Allowed() as without, torch.no_grad():
        method.teacher(x, t, batch.conditions, stride)
    assert with_gradients.seen and not any(with_gradients.seen)
    assert without.seen and all(without.seen)
