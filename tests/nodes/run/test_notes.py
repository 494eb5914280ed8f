"""What is said about a run, when, and what is not said."""

import logging
from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_easycache import LazyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from dcm_pack.dcm_core.families.presets import find_family
from dcm_pack.dcm_core.schedule.pairs import PAIR_NAMES
from dcm_pack.dcm_core.schedule.plot import plot_schedule
from dcm_pack.nodes.backbone.attention_choice import OVERRIDE, with_attention
from dcm_pack.nodes.backbone.model import declare_semantic
from harness.pairs import pair
from harness.worlds import dcm_node, empty_latent, world

import nodes


@pytest.fixture
def this():
    return world("wan")


@pytest.fixture
def said(caplog):
    """What the pack logs, from now on."""
    caplog.set_level(logging.INFO, logger="DCM")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "DCM"]


def info(this, model, **options):
    texts = this.text(0), this.text(1)
    options = {"seed": 0, "steps": 4, "cfg": 1.0, **options}
    positional = [options.pop(name) for name in ("seed", "steps", "cfg")]
    return dcm_node("DCMKSampler").execute(model, *positional, *texts, empty_latent(), **options)[1]


def test_what_other_nodes_took_from_either_model_of_a_pair_is_said(this):
    lost = "put DCM Attention behind it"
    high, low = pair()
    assert lost not in info(this, high, low_noise_model=with_attention(low))
    for place in (0, 1):
        models = [with_attention(each) for each in (high, low)]
        models[place].model_options["transformer_options"][OVERRIDE] = lambda function, *args, **kwargs: function(
            *args, **kwargs
        )
        assert info(this, models[0], low_noise_model=models[1]).count(lost) == 1


@pytest.mark.parametrize("options", [{"cfg": 4.0}, {"detail_cfg": 1.5}], ids=str)
def test_cfg_on_experts_that_carry_their_guidance(this, options):
    text = info(this, this.applied(), **options)
    assert f"cfg is {max(options.values()):g}, but the experts carry a guidance of 6" in text
    assert "Set cfg to 1" in text
    plain = replace(this, detail=replace(this.detail, metadata=replace(this.detail.metadata, guidance=1.0)))
    assert "guidance" not in info(this, plain.applied(), **options)
    assert "guidance" not in info(this, this.applied())


def generic(model, steps, scheduler="simple"):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def test_a_generic_scheduler_that_starves_an_expert(this):
    model = this.applied()
    text = info(this, model, sigmas=generic(model, 4))
    assert "give the semantic expert 1 of 4 steps instead of 2" in text
    assert "Connect DCM Sigmas, or leave sigmas open." in text
    assert "the shift of the MODEL, which is 8 here, where 17 is meant" in text
    fine = ModelSamplingSD3().patch(model, 41.0)[0]
    assert "Warning" not in info(this, fine, sigmas=generic(fine, 4))
    # Here it is not the shift that is wrong.
    few = ModelSamplingSD3().patch(model, 17.0)[0]
    text = info(this, few, sigmas=generic(few, 4, "exponential"))
    assert "of 4 steps instead of 2" in text and "shift" not in text
    none = info(this, model, sigmas=torch.tensor([0.9, 0.5, 0.0]))
    assert "no step is the semantic expert's" in none and "Connect DCM Sigmas" in none


def test_an_uneven_share_that_was_asked_for_is_no_fault(this):
    model = this.applied()
    asked = dcm_node("DCMSigmas").execute(model, 4, semantic_steps=1)[0]
    assert "Warning" not in info(this, model, sigmas=asked)
    assert "Warning" not in info(this, model, semantic_steps=1)
    assert "Warning" not in info(this, model, denoise=0.95)
    assert "Warning" not in info(this, model, end_at_step=2)


def test_a_starved_model_of_a_pair(this):
    pair = {"low_noise_model": this.model()}
    assert info(this, this.model(), **pair) == "high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625"
    late = torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0])
    text = info(this, this.model(), sigmas=late, **pair)
    assert "give the high-noise model 1 of 4 steps instead of 2 (the switch is at sigma 0.8750)" in text
    assert "no step is the low-noise model's" in info(this, this.model(), boundary=0.6, **pair)
    assert "Connect DCM Sigmas with the preset wan2.2 lightning, or leave sigmas open." in text


def test_a_starved_model_of_a_pair_in_a_stock_sampler(this, said):
    """What DCM Sigmas gives a plain Wan is for DCM's experts: the remedy names the list that is for a pair."""
    texts, euler = (this.text(0), this.text(1)), comfy.samplers.sampler_object("euler")
    guider = dcm_node("DCMGuider").execute(this.model(), *texts, low_noise_model=this.model())[0]
    noise = RandomNoise().get_noise(0)[0]
    for preset, is_starved in (("experts", True), ("wan2.2 lightning", False)):
        sigmas = dcm_node("DCMSigmas").execute(this.model(), 4, preset=preset)[0]
        before = len(said())
        SamplerCustomAdvanced().sample(noise, guider, euler, sigmas, empty_latent())
        starved = [line for line in said()[before:] if "no step is the low-noise model's" in line]
        assert len(starved) == is_starved, preset
        if starved:
            assert "the preset wan2.2 lightning to a sampler node that takes SIGMAS" in starved[0]
            assert "leave sigmas open" not in starved[0]


@pytest.mark.parametrize(("sampler", "is_said"), [("euler", False), ("dpmpp_2m", False), ("heun", True)])
@pytest.mark.parametrize("is_pair", [True, False])
def test_samplers_that_ask_beside_the_steps(this, said, sampler, is_said, is_pair):
    model = this.model() if is_pair else this.applied()
    low = {"low_noise_model": this.model()} if is_pair else {}
    for _ in range(2):
        before = len(said())
        info(this, model, sampler_name=sampler, **low)
        notes = [line for line in said()[before:] if "beside the noise levels of the steps" in line]
        assert len(notes) == is_said, "once a run"
    if is_said:
        assert "The switch follows the noise level that is asked for" in notes[0]


def test_the_plan_is_logged_once_a_run(this, said):
    model = this.applied()
    before = len(said())
    sigmas = dcm_node("DCMSigmas").execute(model, 4)[0]
    info(this, model, sigmas=sigmas)
    plan = "DCM: SemE 2 steps 1.000 0.989 | DetE 2 steps 0.975 0.905"
    assert said()[before:] == [plan]
    guider = dcm_node("DCMGuider").execute(model, this.text(0), this.text(1), cfg=2.0)[0]
    assert said()[before:] == [plan]
    noise, euler = RandomNoise().get_noise(0)[0], comfy.samplers.sampler_object("euler")
    for run in range(2):
        before = len(said())
        SamplerCustomAdvanced().sample(noise, guider, euler, sigmas, empty_latent())
        assert said()[before] == plan and "cfg is 2" in said()[before + 1], run
        assert len(said()) == before + 2


def test_runs_of_stock_samplers_are_noted_too(this, said):
    """There the generic scheduler is chosen that starves an expert."""
    model, texts = this.applied(), (this.text(0), this.text(1))
    before = len(said())
    nodes.common_ksampler(model, 0, 4, 3.0, "heun", "simple", *texts, empty_latent())
    plan, starved, cfg, beside = said()[before:]
    assert plan == "DCM: SemE 1 step 1.000 | DetE 3 steps 0.960 0.889 0.727"
    assert "the semantic expert 1 of 4 steps instead of 2" in starved and "Connect DCM Sigmas" in starved
    assert "cfg is 3, but the experts carry" in cfg
    assert "The switch follows the noise level that is asked for" in beside
    # Each part of a run may be one expert's, and sigmas that rise are no business of ours.
    for part in (this.schedule.sigmas(4)[:3], this.schedule.sigmas(4)[2:], torch.tensor([0.1, 0.5, 0.9])):
        before = len(said())
        this.custom_sampled(model, part)
        assert not [line for line in said()[before:] if "no step is" in line or "instead of" in line]
    # Applied anew, the former experts' notes are gone with them.
    before = len(said())
    this.custom_sampled(this.applied(model), this.schedule.sigmas(4))
    assert len([line for line in said()[before:] if "SemE 2 steps" in line and "4 steps:" not in line]) == 1


def test_one_half_of_what_was_baked(this):
    semantic, detail, _ = dcm_node("DCMBake").execute(this.applied())
    assert "holds the semantic expert only" in info(this, semantic)
    assert info(this, semantic, low_noise_model=detail).startswith("high noise 2 steps 1.000 0.989")
    with pytest.raises(ValueError, match="swapped: connect the one with the semantic expert to model"):
        info(this, detail, low_noise_model=semantic)


def test_experts_are_spoken_of_only_where_some_take_part(this):
    """Of two plain MODELs nobody was trained for euler, and what a plain one gets is no expert's."""
    unusual, plain = {"sampler_name": "dpmpp_2m"}, this.model()
    said = info(this, plain, low_noise_model=this.model(), **unusual)
    line = "high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625"
    assert said == f"{line}; set: sampler_name dpmpp_2m"
    said = info(this, plain, **unusual).replace("; set: sampler_name dpmpp_2m", "")
    assert said.startswith("no experts: 4 steps 1.000 0.989 0.975 0.905\nWarning: this MODEL has no detail expert")
    assert "trained for" not in said and "SemE" not in said
    semantic, detail = this.baked()
    for model, low in ((this.applied(), None), (semantic, detail), (this.model(), detail)):
        assert "dpmpp_2m is unusual" in info(this, model, low_noise_model=low, **unusual)


def test_a_model_that_is_a_semantic_expert_itself(this):
    model = this.model()
    declare_semantic(model)
    line = "semantic expert only: 4 steps 1.000 0.989 0.975 0.905"
    said = info(this, model)
    assert said.startswith(f"{line}\nWarning: this MODEL has no detail expert, so its semantic expert takes all steps")
    assert dcm_node("DCMSigmas").execute(model, 4)[1] == f"{line} (experts would switch after step 2)"
    assert dcm_node("DCMGuider").execute(model, this.text(0), this.text(1))[1] == f"no switch; {line}"
    shown = dcm_node("DCMApplyExperts").execute(model, this.detail)[1]
    assert "no semantic expert is connected" not in shown
    shown = dcm_node("DCMApplyExperts").execute(this.model(), this.detail)[1]
    assert "no semantic expert is connected" in shown and "right only if it was loaded from a semantic" in shown


def test_one_half_of_what_was_baked_is_no_pair_by_itself(this):
    for model, kind in zip(this.baked(), ("semantic", "detail"), strict=True):
        assert info(this, model).startswith(f"{kind} expert only: 4 steps 1.000")


@pytest.mark.parametrize("preset", ["experts", "aligned", "official"])
def test_the_noise_levels_of_a_model_without_experts(this, preset):
    shown, plot = dcm_node("DCMSigmas").execute(this.model(), 4, preset=preset).args[1:]
    assert shown.startswith("no experts: 4 steps 1.000") and shown.endswith("(experts would switch after step 2)")
    assert "SemE" not in shown and "DetE" not in shown
    assert not torch.equal(plot, dcm_node("DCMSigmas").execute(this.applied(), 4, preset=preset)[2])


def test_kappa_at_pure_noise_is_answered_as_it_was_typed(this):
    with pytest.raises(ValueError, match=r"^kappa is 1: .* choose a sigma from 0\.2576 to 0\.9988"):
        this.applied(kappa=1.0)


def test_a_cache_that_skips_calls_is_no_unusual_sampler(this, said):
    """The steps it answers itself were asked at their noise levels."""
    model = LazyCacheNode.execute(this.applied(), 100.0, 0.0, 1.0, False)[0]
    before = len(said())
    this.custom_sampled(model, this.schedule.sigmas(8))
    this.sampled(model, steps=8)
    assert not [line for line in said()[before:] if "asks the network beside" in line]


def test_where_the_switch_of_a_guider_is(this):
    texts = this.text(0), this.text(1)
    assert "DetE from there down" in dcm_node("DCMGuider").execute(this.applied(), *texts)[1]
    text = dcm_node("DCMGuider").execute(this.model(), *texts, low_noise_model=this.model())[1]
    assert text == (
        "the low-noise model acts below sigma 0.8750; "
        "4 steps: high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625"
    )


def test_a_pair_is_called_one_thing_in_every_node(this, said):
    """In what is shown, in the log, and, as far as a picture can be compared, on the plot."""
    line, texts = (
        "high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625",
        (this.text(0), this.text(1)),
    )
    high, low = this.model(), this.model()
    sigmas, shown, plot = dcm_node("DCMSigmas").execute(high, 4, preset="wan2.2 lightning").args
    assert shown == line == info(this, high, low_noise_model=low, sigmas=sigmas)
    guider, shown = dcm_node("DCMGuider").execute(high, *texts, low_noise_model=low).args
    assert shown.endswith(f"4 steps: {line}")
    before = len(said())
    euler = comfy.samplers.sampler_object("euler")
    SamplerCustomAdvanced().sample(RandomNoise().get_noise(0)[0], guider, euler, sigmas, empty_latent())
    assert said()[before:] == [f"DCM: {line}"]
    schedule = find_family("wan").pair.schedule(takes_image=False)
    assert torch.equal(plot[0], plot_schedule(schedule, sigmas, names=PAIR_NAMES))
    assert not torch.equal(plot[0], plot_schedule(schedule, sigmas))


def test_what_was_baked_is_called_a_pair_at_dcm_sigmas_too(this):
    semantic, detail, _ = dcm_node("DCMBake").execute(this.applied())
    for model in (semantic, detail):
        shown = dcm_node("DCMSigmas").execute(model, 4)[1]
        assert shown == info(this, semantic, low_noise_model=detail)
    assert dcm_node("DCMSigmas").execute(this.applied(), 4)[1].startswith("SemE 2 steps")


def test_lists_of_speed_loras(this):
    dcm_sigmas = dcm_node("DCMSigmas")
    sigmas, text, _ = dcm_sigmas.execute(this.model(), 4, preset="wan2.1 lightx2v")
    assert torch.allclose(sigmas, torch.tensor([1.0, 0.9375, 0.833333, 0.625, 0.0]))
    assert text == "high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625"
    # A MODEL with experts switches where they say, on whatever noise levels.
    _, text, _ = dcm_sigmas.execute(this.applied(), 9, preset="wan2.1 causvid 14B")
    assert text.startswith("SemE 1 step 0.999 | DetE 8 steps 0.934")
    with pytest.raises(ValueError, match="published for 4 or 8 steps, not for 5"):
        dcm_sigmas.execute(this.model(), 5, preset="wan2.2 lightning")
    with pytest.raises(ValueError, match="is for Wan, and this MODEL is hunyuan_video"):
        dcm_sigmas.execute(world("hunyuan_video").model(), 4, preset="wan2.2 lightning")
    with pytest.raises(ValueError, match="leave semantic_steps at 0"):
        dcm_sigmas.execute(this.model(), 4, preset="wan2.2 lightning", semantic_steps=1)
