"""The shipped Shapes networks, and the rows in which the demo and the benchmark compare them."""

from __future__ import annotations

import copy
from functools import partial

from dcm_core.expert.file import load_expert
from dcm_core.expert.layers import Expert
from dcm_core.process import FLOW
from dcm_core.sampling import VelocityModel, with_experts
from dcm_core.schedule.experts import ExpertSchedule
from dcm_core.shapes import weights

from ..config import BackboneConfig
from ..data.batch import Conditions
from ..networks.network import Network
from ..registry import build_backbone
from .compare import Entrant, plain_sigmas

TEACHER_STEPS, STEPS = 50, 4


def shipped_entrants() -> tuple[list[Entrant], ExpertSchedule]:
    """The teacher in 50 steps (first, the reference) and in 4, on its own sigmas and on DCM's; each expert
    alone, and both (last). With their schedule."""
    semantic, detail = load_expert(weights.semantic()), load_expert(weights.detail())
    return entrants(semantic, detail), detail.metadata.schedule


def entrants(semantic: Expert, detail: Expert) -> list[Entrant]:
    """The rows for two experts of the shipped teacher."""
    backbone = build_backbone(BackboneConfig(name="shapes"))
    teacher = backbone.load(weights.teacher()).eval()
    seme = copy.deepcopy(teacher)
    backbone.apply(seme, semantic)
    dete = copy.deepcopy(seme)
    backbone.apply(dete, detail)

    teacher, seme, dete = (_model(network) for network in (teacher, seme, dete))
    schedule, guidance = detail.metadata.schedule, detail.metadata.guidance
    plain = partial(plain_sigmas, schedule)
    return [
        Entrant(f"teacher, {TEACHER_STEPS} steps", teacher, plain(TEACHER_STEPS), guidance),
        Entrant(f"teacher, plain Euler {STEPS}", teacher, plain(STEPS), guidance),
        # What the choice of sigmas does by itself, in as many steps as the experts and in as many network calls.
        Entrant(f"teacher, DCM's {STEPS} sigmas", teacher, schedule.sigmas(STEPS), guidance),
        Entrant(f"teacher, DCM's {STEPS // 2} sigmas", teacher, schedule.sigmas(STEPS // 2), guidance),
        Entrant(f"semantic expert alone, {STEPS}", seme, schedule.sigmas(STEPS)),
        Entrant(f"detail expert alone, {STEPS}", dete, schedule.sigmas(STEPS)),
        Entrant(f"both experts, {STEPS}", with_experts(seme, dete, schedule), schedule.sigmas(STEPS)),
    ]


def _model(network: Network) -> VelocityModel:
    """The network as ``model(x, sigma, text)``."""
    return lambda x, sigma, text: network(x, FLOW.timestep(sigma), Conditions(text))[0]
