"""Two MODELs in one run, as Wan 2.2's: against two stock samplers cut at the same noise level."""

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from dcm_pack.nodes.backbone.model import as_released
from harness import tiny
from harness.pairs import STEPS, pair, second, stock, with_lora
from harness.worlds import assert_same, dcm_node, empty_latent, relative, world


def test_equals_two_stock_samplers():
    high, low = pair()
    result = world("wan").sampled(high, low_noise_model=low)
    expected = stock(high, low)
    for wrong in (stock(high, low, 1), stock(high, low, 3), stock(low, high), stock(high, high)):
        assert_same(result, expected, wrong, 1e-4)


def test_each_model_has_its_own_loras():
    high, low = pair()
    models = with_lora(high, 1), with_lora(low, 2)
    result = world("wan").sampled(models[0], low_noise_model=models[1])
    expected = stock(*models)
    for wrong in (
        stock(with_lora(high, 2), with_lora(low, 1)),
        stock(high, models[1]),
        stock(models[0], low),
    ):
        assert_same(result, expected, wrong, 1e-4)


def test_two_clones_of_one_network():
    """One file, two LoRAs: the host has a single copy of the weights and patches it anew at the switch."""
    high, _ = pair()
    models, patchers = (with_lora(high, 1), with_lora(high, 2)), []
    assert models[0].model is models[1].model
    this, expected, wrong = world("wan"), stock(*models), stock(*reversed(models))

    def note(executor, *args, **kwargs):
        patchers.append(executor.class_obj.current_patcher)
        return executor(*args, **kwargs)

    for model in models:
        model.add_wrapper(WrappersMP.APPLY_MODEL, note)
    for _ in range(2):
        assert_same(this.sampled(models[0], low_noise_model=models[1]), expected, wrong, 1e-4)
    assert patchers == [models[0], models[0], models[1], models[1]] * 2, (
        "each patcher is the network's in its own steps"
    )
    # This sampler asks above the switch again after it was below.
    back = {"sampler_name": "heunpp2", "sigmas": torch.tensor([1.0, 0.95, 0.9, 0.6, 0.3, 0.0])}
    apart = with_lora(this.model(), 1), with_lora(this.model(), 2)
    expected = this.sampled(apart[0], low_noise_model=apart[1], **back)
    assert torch.equal(this.sampled(models[0], low_noise_model=models[1], **back), expected)
    comfy.model_management.unload_all_models()
    assert torch.equal(this.sampled(high), this.sampled(this.model()))


def test_each_model_has_its_own_cfg():
    high, low = pair()
    this = world("wan")
    result = this.sampled(high, low_noise_model=low, cfg=4.0, detail_cfg=1.5)
    assert_same(result, stock(high, low, cfgs=(4.0, 1.5)), stock(high, low, cfgs=(4.0, 4.0)), 1e-4)
    same = this.sampled(high, low_noise_model=low, cfg=4.0)
    assert_same(same, stock(high, low, cfgs=(4.0, 4.0)), result, 1e-4)


def in_two_parts(this, high, low, sigmas, cut):
    first = this.custom_sampled(high, sigmas[: cut + 1])
    return this.custom_sampled(low, sigmas[cut:], latent={"samples": first}, add_noise=False)


@pytest.mark.parametrize(
    ("in_dim", "boundary", "cut"), [(16, 0.0, 3), (36, 0.0, 2), (16, 0.95, 1), (36, 0.5, 3)], ids=str
)
def test_the_boundary(in_dim, boundary, cut):
    """Wan 2.2's own is 0.875 for text and 0.9 for images; a step that lies on it is the high-noise model's."""
    networks = [tiny.randomise(tiny.wan(in_dim=in_dim), seed).requires_grad_(False) for seed in (0, 5)]
    these = [replace(world("wan"), network=network) for network in networks]
    high, low = (this.model() for this in these)
    edge = boundary or {16: 0.875, 36: 0.9}[in_dim]
    sigmas = torch.tensor([1.0, 0.93, 0.89, 0.88, 0.4, 0.0])
    sigmas[cut] = edge
    result = these[0].sampled(high, low_noise_model=low, sigmas=sigmas, boundary=boundary)
    parts = [in_two_parts(these[0], high, low, sigmas, number) for number in (cut + 1, cut, cut + 2)]
    assert_same(result, parts[0], parts[1], 1e-4)
    assert_same(result, parts[0], parts[2], 1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_pair_of_any_family_switches_where_its_experts_say(family):
    """Or its schedule, without experts; Wan has two, so that it needs them here."""
    this = world(family)
    other = replace(this, network=tiny.randomise(tiny.FAMILIES[family](), seed=5).requires_grad_(False))
    high, low = this.applied(semantic_strength=0.0) if family == "wan" else this.model(), other.model()
    sigmas = this.schedule.sigmas(STEPS)
    result = this.sampled(high, low_noise_model=low)
    released = [as_released(model, this.schedule.grid) for model in (high, low)]
    parts = [in_two_parts(this, *released, sigmas, cut) for cut in (2, 1, 3)]
    assert_same(result, parts[0], parts[1], 1e-4)
    assert_same(result, parts[0], parts[2], 1e-4)
    boundary = 0.95 if family == "cogvideox" else 0.995  # between the first two steps
    earlier = this.sampled(high, low_noise_model=low, sigmas=sigmas, boundary=boundary)
    assert_same(earlier, parts[1], parts[0], 1e-4)


def test_what_was_baked_is_a_pair():
    this = world("wan")
    semantic, detail, _ = dcm_node("DCMBake").execute(this.applied())
    result = this.sampled(semantic, low_noise_model=detail)
    assert_same(result, this.sampled(this.applied()), this.without_detail(), 1e-4)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_run_in_two_parts_equals_one_run(cut):
    high, low = pair()
    this = world("wan")
    first = this.sampled(high, low_noise_model=low, end_at_step=cut)
    second_part = {"samples": first}
    result = this.sampled(high, low_noise_model=low, latent=second_part, start_at_step=cut, add_noise=False)
    assert_same(result, this.sampled(high, low_noise_model=low), first, 1e-4)


def advanced(guider, sigmas, sampler="euler", seed=3):
    noise, sampler = RandomNoise().get_noise(seed)[0], comfy.samplers.sampler_object(sampler)
    return SamplerCustomAdvanced().sample(noise, guider, sampler, sigmas, empty_latent())[0]["samples"]


def test_the_guider_in_a_stock_sampler_equals_the_node():
    this = world("wan")
    high, low = pair()
    sigmas = dcm_node("DCMSigmas").execute(high, STEPS, preset="wan2.2 lightning")[0]
    texts, cfgs = (this.text(0), this.text(1)), {"cfg": 3.0, "detail_cfg": 1.5}
    guider = dcm_node("DCMGuider").execute(high, *texts, **cfgs, low_noise_model=low)[0]
    result = this.sampled(high, low_noise_model=low, seed=3, **cfgs)
    for _ in range(2):  # the host keeps a guider from prompt to prompt
        assert torch.equal(advanced(guider, sigmas), result)
    assert torch.equal(advanced(guider, sigmas[:0]), empty_latent()["samples"])
    model = this.applied()
    guider = dcm_node("DCMGuider").execute(model, *texts, **cfgs)[0]
    assert torch.equal(advanced(guider, this.schedule.sigmas(4)), this.sampled(model, seed=3, **cfgs))


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "heunpp2", "dpmpp_2m", "lcm"])
def test_other_samplers_see_one_model(sampler):
    """What a sampler remembers, adds to the guidance, or asks again above the switch goes through both."""
    this = world("wan")
    model, options = this.model(), {"cfg": 3.0, "sampler_name": sampler, "steps": 6}
    sigmas = torch.tensor([1.0, 0.95, 0.9, 0.8, 0.6, 0.3, 0.0])
    alone = this.sampled(model, sigmas=sigmas, **options)
    result = this.sampled(model, low_noise_model=this.model(), sigmas=sigmas, **options)
    assert_same(result, alone, this.sampled(model, sigmas=sigmas, **options | {"sampler_name": "euler"}), 1e-5)
    other = this.sampled(model, low_noise_model=second().model(), sigmas=sigmas, **options)
    assert relative(other, alone) > 1e-2


def test_what_other_nodes_put_on_a_model_acts_in_its_own_steps():
    high, low = pair()
    seen = {"high": [], "low": []}
    kinds = (WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL, WrappersMP.OUTER_SAMPLE)
    for name, model in (("high", high), ("low", low)):
        for kind in kinds:

            def note(executor, *args, name=name, kind=kind, **kwargs):
                seen[name].append(kind)
                return executor(*args, **kwargs)

            model.add_wrapper(kind, note)
        model.set_model_sampler_post_cfg_function(
            lambda args, name=name: seen[name].append("post cfg") or args["denoised"]
        )
    world("wan").sampled(high, low_noise_model=low, steps=4, boundary=0.95)
    for name, steps in (("high", 1), ("low", 3)):
        counts = {kind: seen[name].count(kind) for kind in (*kinds, "post cfg")}
        assert counts == dict.fromkeys((*kinds, "post cfg"), steps) | {WrappersMP.OUTER_SAMPLE: 1}


def test_one_bar_of_exactly_the_steps(monkeypatch):
    high, low = pair()
    seen = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: seen.append((value, total))
    )
    # Newer hosts leave out messages that come too fast, but never one with a preview.
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    world("wan").sampled(high, low_noise_model=low, steps=5)
    assert seen == [(step, 5) for step in range(1, 6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boundary": 0.05}, "boundary is 0.05"),
        ({"boundary": 0.9, "low_noise_model": None}, "low_noise_model is not connected"),
        ({"low_noise_model": "images"}, "wan with 16 input channels.*wan with 36.*text to video"),
        ({"low_noise_model": "hunyuan_video"}, "hunyuan_video with"),
    ],
    ids=str,
)
def test_pairs_that_cannot_be(options, message):
    this = world("wan")
    others = {
        "images": lambda: replace(this, network=tiny.wan(in_dim=36).requires_grad_(False)).model(),
        "hunyuan_video": lambda: world("hunyuan_video").model(),
    }
    low = options.get("low_noise_model", this.model())
    options = options | {"low_noise_model": others[low]() if low in others else low}
    with pytest.raises(ValueError, match=message):
        this.sampled(this.model(), **options)
