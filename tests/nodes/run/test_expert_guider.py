"""The guider of a run: a cfg for each expert, and no more questions about who acts than a run needs."""

import pytest
from dcm_pack.dcm_core.schedule.experts import ExpertSchedule
from harness.worlds import relative, world

STEPS = 4


@pytest.fixture
def asked(monkeypatch):
    """The answers to who acts, in their order."""
    answers, acting = [], ExpertSchedule.acting

    def noted(self, sigma):
        answers.append(acting(self, sigma))
        return answers[-1]

    monkeypatch.setattr(ExpertSchedule, "acting", noted)
    return answers


def test_who_acts_is_asked_once_a_call(asked):
    """By the experts themselves, in any sampler node."""
    this, expected = world("wan"), ["semantic", "semantic", "detail", "detail"]
    model = this.applied()
    for run in (lambda: this.sampled(model), lambda: this.custom_sampled(model, this.schedule.sigmas(STEPS))):
        asked.clear()
        run()
        assert asked == expected


def test_two_cfgs_need_a_second_answer(asked):
    this = world("wan")
    model = this.applied()
    asked.clear()
    this.sampled(model, cfg=2.0, detail_cfg=1.0)
    assert asked == ["semantic"] * 4 + ["detail"] * 4


def test_a_pair_is_asked_once_a_call_and_for_the_first_model_to_load(asked):
    this = world("wan")
    high, low = this.model(), this.model()
    this.sampled(high, low_noise_model=low, cfg=2.0, detail_cfg=1.0)
    assert asked == ["semantic", "semantic", "semantic", "detail", "detail"]


def test_each_expert_has_its_cfg():
    """As in two runs, one for each, that are cut at the switch."""
    this = world("wan")
    model, sigmas = this.applied(), this.schedule.sigmas(STEPS)
    result = this.sampled(model, cfg=3.0, detail_cfg=1.5)
    first = this.custom_sampled(model, sigmas[:3], cfg=3.0)
    expected = this.custom_sampled(model, sigmas[2:], cfg=1.5, latent={"samples": first}, add_noise=False)
    assert relative(result, expected) <= 1e-4
    assert relative(this.sampled(model, cfg=3.0), expected) > 1e-2
