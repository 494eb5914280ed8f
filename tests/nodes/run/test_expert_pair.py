"""Experts that were trained over a pair of MODELs: each over its own, in one run."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import comfy.sample
import pytest
import torch
from dcm_pack.dcm_core.expert.fingerprint import fingerprint, logical_shapes, norm_tensors
from dcm_pack.dcm_core.expert.layers import Expert
from dcm_pack.dcm_core.families.presets import FAMILIES
from dcm_pack.dcm_core.sampling import euler, with_experts
from dcm_pack.dcm_core.schedule.experts import ExpertSchedule
from dcm_pack.dcm_core.schedule.pairs import PAIR_NAMES
from harness import tiny
from harness.pairs import second
from harness.worlds import SHAPE, World, assert_same, dcm_node, world

PAIR = FAMILIES["wan"].pair
SCHEDULE = ExpertSchedule(PAIR.grid, PAIR.grid.cut("boundary", PAIR.text))
TOLERANCE = 1e-4


def of_pair(world: World, expert: Expert) -> Expert:
    """As the trainer exports it over that network."""
    state = world.network.state_dict()
    base = fingerprint("wan", logical_shapes(world.network), norm_tensors(state))
    told = replace(expert.metadata, pair=True, schedule=SCHEDULE, base_fingerprint=base, fingerprint="")
    return Expert(told, expert.layers, expert.parameters)


@cache
def experts() -> tuple[Expert, Expert]:
    detail = tiny.random_expert(second().network, "wan", "detail", seed=4)
    return of_pair(world("wan"), world("wan").semantic), of_pair(second(), detail)


def applied():
    """(high-noise MODEL, low-noise MODEL), and what was said of them."""
    semantic, detail = experts()
    high, told = dcm_node("DCMApplyExperts").execute(world("wan").model(), semantic_expert=semantic)
    low, also = dcm_node("DCMApplyExperts").execute(second().model(), detail)
    return high, low, told + also


def sampled(high, low, **options):
    texts = world("wan").text(0), world("wan").text(1)
    latent = {"samples": torch.zeros(SHAPE)}
    return dcm_node("DCMKSampler").execute(high, 0, 4, 1.0, *texts, latent, low_noise_model=low, **options)


def truth(schedule: ExpertSchedule, sigmas, *low: Expert):
    """Of plain networks with the weights merged by hand."""
    this, text = world("wan"), world("wan").text()
    parts = this.merged(experts()[0]), second().merged(*low)
    velocities = [this.velocity(network, text) for network in parts]
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 0)
    return euler(with_experts(*velocities, schedule), noise, sigmas)


def test_each_expert_acts_over_its_own_model_and_nothing_is_warned_of():
    high, low, told = applied()
    assert "Warning" not in told
    latent, info = sampled(high, low)
    sigmas = SCHEDULE.sigmas(4)
    assert info == SCHEDULE.describe(sigmas, PAIR_NAMES) and info.count("2 steps") == 2
    found = high.model.process_latent_in(latent["samples"])
    assert_same(found, truth(SCHEDULE, sigmas, experts()[1]), truth(SCHEDULE, sigmas), TOLERANCE)


def test_two_over_one_model_and_two_that_are_swapped_are_refused():
    semantic, detail = experts()
    with pytest.raises(ValueError, match="trained over the two MODELs of a pair"):
        dcm_node("DCMApplyExperts").execute(world("wan").model(), detail, semantic)
    high, low, _ = applied()
    with pytest.raises(ValueError, match="swapped: connect the one with the semantic expert to model"):
        sampled(low, high)
    with pytest.raises(ValueError, match="holds the detail expert alone"):
        dcm_node("DCMBake").execute(low)


def test_the_other_models_expert_is_told_by_its_fingerprint():
    semantic, detail = experts()
    assert "other weights of the same shape" in dcm_node("DCMApplyExperts").execute(world("wan").model(), detail)[1]
    high = dcm_node("DCMApplyExperts").execute(second().model(), semantic_expert=semantic)
    assert "other weights of the same shape" in high[1]


def test_two_that_were_trained_for_other_numbers_of_steps_are_said():
    parts = [
        Expert(replace(each.metadata, trained_steps=n), each.layers, {})
        for each, n in zip(experts(), (2, 4), strict=True)
    ]
    high, _ = dcm_node("DCMApplyExperts").execute(world("wan").model(), semantic_expert=parts[0])
    low, _ = dcm_node("DCMApplyExperts").execute(second().model(), parts[1])
    texts, latent = (world("wan").text(0), world("wan").text(1)), {"samples": torch.zeros(SHAPE)}
    told = dcm_node("DCMKSampler").execute(high, 0, 0, 1.0, *texts, latent, low_noise_model=low)[1]
    assert "the experts of the two MODELs were trained for 2 steps and 4 steps; the high-noise one's" in told


def test_one_of_them_alone_is_said_and_two_of_different_trainings_too(caplog):
    high, low, _ = applied()
    assert "holds the detail expert only" in sampled(low, None)[1]
    world("wan").custom_sampled(low, SCHEDULE.sigmas(4)[2:])
    assert "Warning" not in caplog.text.split("holds the detail expert only")[-1]
    semantic = experts()[0]
    other = Expert(replace(semantic.metadata, schedule=SCHEDULE.with_kappa(20)), semantic.layers, semantic.parameters)
    high, _ = dcm_node("DCMApplyExperts").execute(world("wan").model(), semantic_expert=other)
    assert "two MODELs were trained for different schedules (kappa" in sampled(high, low)[1]
