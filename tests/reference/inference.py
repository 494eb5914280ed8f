"""How the published code runs its two experts: which acts, what each is told, and the Euler steps between.

Of DCM, arXiv 2506.03123, and the scripts its authors published with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .networks import ADAPTER, TWIN, Kind


@dataclass(frozen=True)
class Published:
    """The run of a released bundle. The detail expert acts where int(timestep) <= `last_detail_timestep`."""

    last_detail_timestep: int
    sigmas: tuple[float, ...]  # without the final 0
    guidance: float | None  # as the network is told, which is 1000 times what people write


PUBLISHED = {
    "wan": Published(978, tuple(t / 1000 for t in (1000, 992, 982, 949, 905, 810)), None),
    "hunyuan_video": Published(981, (1.0, 0.992, 0.9818, 0.9124), 6000.0),
}

# (latents [B, C, T, H, W], timestep [B] = 1000 sigma) -> velocity [B, C, T, H, W]
Velocity = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def expert(network: nn.Module, kind: Kind, detail: bool) -> Iterator[None]:
    """One expert acts: the adapter with the twins in the places of their originals, or neither."""
    if not detail:
        network.disable_adapters()
        yield
        return
    network.set_adapter(ADAPTER)
    network.enable_adapters()
    originals = {name: getattr(network, name) for name in kind.twins}
    try:
        for name in originals:
            setattr(network, name, getattr(network, name + TWIN))
        yield
    finally:
        for name, original in originals.items():
            setattr(network, name, original)


def switched(network: nn.Module, kind: Kind, beside: list[Tensor], conditions: dict[str, Tensor]) -> Velocity:
    """The network with the published switch.

    `beside` are further channels [B, C, T, H, W] of the latents (image to video), `conditions` what diffusers takes
    beside latents and timestep.
    """

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        detail = int(timestep[0]) <= PUBLISHED[kind.family].last_detail_timestep
        with expert(network, kind, detail):
            return network(torch.cat([latents, *beside], dim=1), timestep, **conditions, return_dict=False)[0]

    return velocity


def trajectory(velocity: Velocity, noise: Tensor, sigmas: tuple[float, ...], bf16_timestep: bool) -> Tensor:
    """Latents at sigma 0. With `bf16_timestep` the timestep is rounded as where latents are kept in bfloat16.

    They take the dtype of the velocity: bfloat16 under autocast, in which the published run was made.
    """
    levels = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
    latents = noise
    for sigma, following in zip(levels[:-1], levels[1:], strict=True):
        timestep = (sigma * 1000).expand(len(latents))
        if bf16_timestep:
            timestep = timestep.to(torch.bfloat16).to(torch.float32)
        v = velocity(latents, timestep)
        latents = (latents + (following - sigma) * v).to(v.dtype)
    return latents
