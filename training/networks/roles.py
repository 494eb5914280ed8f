"""The roles of a method's networks, and how they are held: as copies, or as adapters of one frozen backbone.

==========  ==========================================  =====================================
role        mode ``full``                               mode ``adapter``
==========  ==========================================  =====================================
teacher     the backbone                                the backbone
semantic    a copy with the semantic expert added       the backbone with a frozen adapter
student     a copy, all of it trained; over a semantic  an adapter over the backbone, or over
            expert an adapter                           the semantic one
target      as the student: a copy, or an adapter       an adapter
==========  ==========================================  =====================================

An adapter changes the layers that a detail expert changes by the family's key map: pairs of low rank over the
attentions' projections, twins of the embedders and of the output head. With the rank ``whole`` it is twins alone, of
every linear layer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dcm_core.expert.layers import Expert

from ..data.batch import Conditions
from .adapter import Rank, frozen_state
from .average import MovingAverage, Parameters
from .network import Network

Mode = Literal["full", "adapter"]
STUDENT, TARGET, SEMANTIC = "student", "target", "semantic"


class Adapts(Protocol):
    """What the roles need of a backbone."""

    def apply(self, network: Network, expert: Expert) -> None: ...
    def lay(self, network: Network, expert: Expert, name: str) -> None: ...
    def add_adapter(self, network: Network, name: str, rank: Rank, alpha: float, seed: int) -> None: ...


@dataclass(frozen=True)
class Player:
    """A network in a role: with these of its adapters acting, the later ones over the earlier."""

    network: Network
    adapters: tuple[str, ...] = ()

    def __call__(self, x: Tensor, timestep: Tensor, conditions: Conditions, stride: int = 0) -> tuple[Tensor, Any]:
        """Velocity, and features with velocities, in the dtype of ``x``, whatever the network computes in."""
        dtype = self.network.compute_dtype
        cast = torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32)
        with self.network.having(self.adapters), cast:
            velocity, features = self.network(x, timestep, conditions, stride)
        return velocity.to(x.dtype), features.seen_in(x.dtype) if features else None

    def state(self) -> dict[str, Tensor]:
        """The weights that act in this role: those below all adapters, and those of its own."""
        return frozen_state(self.network.transformer, self.adapters)


@dataclass(frozen=True)
class Roles:
    """Who plays what. ``below``: what the student was before its adapter, if it has one."""

    student: Player
    teacher: Player
    target: Player
    below: Player

    @property
    def networks(self) -> list[Network]:
        """Every network there is, once."""
        players = self.student, self.teacher, self.target, self.below
        return list({id(player.network): player.network for player in players}.values())

    def average(self, trained: Parameters, decay: float) -> MovingAverage:
        """The moving average of what is trained that the target's own weights are."""
        own = dict(self.target.network.transformer.named_parameters())
        values = {name: own[name.replace(f".{STUDENT}.", f".{TARGET}.")] for name in trained}
        return MovingAverage(trained, decay, values)


def cast_roles(
    backbone: Adapts,
    network: Network,
    mode: Mode,
    adapter: dict[str, Any],
    averaged: bool,
    semantic: Expert | None,
) -> Roles:
    """The roles over a teacher's ``network``, whose matrices may be in 16 bits: what is trained begins at their values,
    in float32. Raises ConfigError where a semantic expert does not fit.

    ``adapter``: rank, alpha and seed. ``averaged``: is the target an average of the student, or the student itself?
    ``semantic``: the expert that the student lies over, if there is one.
    """
    teacher = below = Player(network.requires_grad_(False))
    if mode == "full":
        below = Player(copy.deepcopy(network))
        if semantic is None:
            student = Player(below.network.float().requires_grad_(True))
            target = Player(copy.deepcopy(student.network).requires_grad_(False)) if averaged else student
            return Roles(student, teacher, target, below)
        backbone.apply(below.network, semantic)
    elif semantic is not None:
        backbone.lay(network, semantic, SEMANTIC)
        below = Player(network, (SEMANTIC,))

    def adapted(name: str) -> Player:
        with below.network.having(below.adapters):
            backbone.add_adapter(below.network, name, **adapter)
        return replace(below, adapters=(*below.adapters, name))

    target = adapted(TARGET) if averaged else None
    student = adapted(STUDENT)  # the last one: it alone is trained
    return Roles(student, teacher, target or student, below)
