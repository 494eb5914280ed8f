"""What a stock node puts between guider and network acts in DCM's own samplers as it does in the stock ones."""

import importlib
import inspect

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from dcm_pack.dcm_core.sampling import euler, with_experts
from harness.loras import Maker, all_of
from harness.pairs import pair, second, with_lora
from harness.worlds import assert_same, dcm_node, empty_latent, relative, world

CUT, STEPS = 2, 4
# What it does to a MODEL: (file of comfy_extras, class, inputs). Left out where this ComfyUI has no such node.
NODES = {
    "cfg override": ("nodes_custom_sampler", "CFGOverride", {"cfg": 6.0, "start_percent": 0.0, "end_percent": 1.0}),
    "cfg override, early": (
        "nodes_custom_sampler",
        "CFGOverride",
        {"cfg": 6.0, "start_percent": 0.0, "end_percent": 0.1},
    ),
    "cfg override to 1": ("nodes_custom_sampler", "CFGOverride", {"cfg": 1.0, "start_percent": 0.0, "end_percent": 1}),
    "rescale cfg": ("nodes_model_advanced", "RescaleCFG", {"multiplier": 0.7}),
    "noise scale": ("nodes_model_advanced", "ModelNoiseScale", {"noise_scale": 1.1}),
    "cfg zero star": ("nodes_cfg", "CFGZeroStar", {}),
    "cfg norm": ("nodes_cfg", "CFGNorm", {"strength": 0.8}),
    "apg": ("nodes_apg", "APG", {"eta": 0.5, "norm_threshold": 5.0, "momentum": -0.5}),
    "tcfg": ("nodes_tcfg", "TCFG", {}),
    "epsilon scaling": ("nodes_eps", "EpsilonScaling", {"scaling_factor": 1.05}),
    "temporal score rescaling": ("nodes_eps", "TemporalScoreRescaling", {"tsr_k": 0.9, "tsr_sigma": 1.0}),
    "fresca": ("nodes_fresca", "FreSca", {"scale_low": 1.2, "scale_high": 0.8, "freq_cutoff": 2}),
    "mahiro": ("nodes_mahiro", "Mahiro", {}),
    "perp neg": ("nodes_perpneg", "PerpNeg", {"empty_conditioning": "text", "neg_scale": 1.0}),
    "skip layers": (
        "nodes_slg",
        "SkipLayerGuidanceDiT",
        {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "double_layers": "1"},
    ),
    "skip layers, simply": (
        "nodes_slg",
        "SkipLayerGuidanceDiTSimple",
        {"start_percent": 0.0, "end_percent": 1.0, "double_layers": "1"},
    ),
    "linear cfg": ("nodes_video_model", "VideoLinearCFGGuidance", {"min_cfg": 1.0}),
    "triangle cfg": ("nodes_video_model", "VideoTriangleCFGGuidance", {"min_cfg": 1.0}),
    "latent operation": ("nodes_latent", "LatentApplyOperationCFG", {"operation": lambda latent, **_: 0.9 * latent}),
    "context windows": (
        "nodes_context_windows",
        "ContextWindowsManualNode",
        {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1}
        | {"closed_loop": False, "fuse_method": "pyramid", "dim": 2, "freenoise": False},
    ),
    "scaled rope": (
        "nodes_rope",
        "ScaleROPE",
        {"scale_x": 0.7, "shift_x": 0.0, "scale_y": 0.7, "shift_y": 0.0, "scale_t": 1.0, "shift_t": 0.0},
    ),
}


def stock_class(name):
    file, kind, _ = NODES[name]
    try:
        return getattr(importlib.import_module(f"comfy_extras.{file}"), kind, None)
    except ImportError:
        return None


def put(name, model):
    """The MODEL that this stock node makes."""
    kind, inputs = stock_class(name), NODES[name][2]
    if "empty_conditioning" in inputs:
        inputs = inputs | {"empty_conditioning": world("wan").text(7)}
    if hasattr(kind, "execute"):
        known = inspect.signature(kind.execute).parameters
        return kind.execute(model, **{key: value for key, value in inputs.items() if key in known})[0]
    return getattr(kind(), kind.FUNCTION)(model, **inputs)[0]


def in_two_runs(high, low, sigmas, cfgs):
    this = world("wan")
    first = this.custom_sampled(high, sigmas[: CUT + 1], cfg=cfgs[0])
    return this.custom_sampled(low, sigmas[CUT:], cfg=cfgs[1], latent={"samples": first}, add_noise=False)


@pytest.fixture(params=[name for name in NODES if stock_class(name)])
def name(request):
    return request.param


def test_experts_under_a_stock_node(name):
    """In one run of the stock sampler; and with a cfg for each expert, in two."""
    this = world("wan")
    model, sigmas = this.applied(), this.schedule.sigmas(STEPS)
    changed = put(name, model)
    result = this.sampled(changed, cfg=3.0, detail_cfg=3.0)
    assert torch.equal(result, this.custom_sampled(changed, sigmas, cfg=3.0))
    assert relative(result, this.sampled(model, cfg=3.0)) > 1e-4, "it does nothing here"
    apart = this.sampled(put(name, model), cfg=3.0, detail_cfg=1.5)
    changed = put(name, model)
    assert relative(apart, in_two_runs(changed, changed, sigmas, (3.0, 1.5))) <= 1e-4


def test_the_guider_under_a_stock_node(name):
    this = world("wan")
    model, sigmas = put(name, this.applied()), this.schedule.sigmas(STEPS)
    guider = dcm_node("DCMGuider").execute(model, this.text(0), this.text(1), cfg=3.0, detail_cfg=3.0)[0]
    assert torch.equal(advanced(guider, sigmas), this.custom_sampled(model, sigmas, cfg=3.0))


@pytest.mark.parametrize("where", ["high", "low", "both"])
def test_a_pair_under_a_stock_node(name, where):
    """On one MODEL or both, each in its own steps."""
    this, models = world("wan"), pair()
    sigmas = torch.tensor([1.0, 0.9375, 0.8333, 0.625, 0.0])

    def changed():
        return [
            put(name, model) if where in (side, "both") else model
            for side, model in zip(("high", "low"), models, strict=True)
        ]

    high, low = changed()
    result = this.sampled(high, low_noise_model=low, sigmas=sigmas, cfg=3.0, detail_cfg=2.0)
    assert relative(result, in_two_runs(*changed(), sigmas, (3.0, 2.0))) <= 1e-4


@pytest.mark.skipif(not hasattr(custom, "CFGOverride"), reason="this ComfyUI has no CFGOverride")
def test_an_overridden_cfg_wins_over_both():
    this = world("wan")
    model, sigmas = this.applied(), this.schedule.sigmas(STEPS)
    result = this.sampled(put("cfg override", model), cfg=3.0, detail_cfg=1.5)
    assert torch.equal(result, this.custom_sampled(model, sigmas, cfg=6.0))


@pytest.mark.parametrize("where", ["high", "low", "both"])
def test_differential_diffusion_on_a_model_of_a_pair(where):
    """Its mask is that of the steps of its MODEL; the other keeps the mask as it was given."""
    this = world("wan")
    high, low = pair()
    mask = torch.linspace(0, 1, 64).reshape(1, 8, 8)
    latent = {"samples": torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(4)), "noise_mask": mask}
    seen = {"high": [], "low": []}

    def on(model, side):
        if where not in (side, "both"):
            return model
        model = DifferentialDiffusion.execute(model)[0]
        made = model.model_options["denoise_mask_function"]

        def noted(sigma, *args, **kwargs):
            seen[side].append(round(float(sigma[0]), 3))
            return made(sigma, *args, **kwargs)

        model.set_model_denoise_mask_function(noted)
        return model

    plain = this.sampled(high, low_noise_model=low, latent=latent)
    result = this.sampled(on(high, "high"), low_noise_model=on(low, "low"), latent=latent)
    assert seen["high"] == ([1.0, 0.938] if where != "low" else [])
    assert seen["low"] == ([0.833, 0.625] if where != "high" else [])
    assert relative(result, plain) > 1e-3


# --- guiders of two MODELs ------------------------------------------------------------------------------------------

two_models = pytest.mark.skipif(not hasattr(custom, "DualModelGuider"), reason="this ComfyUI has no DualModelGuider")


def advanced(guider, sigmas, seed=0):
    noise, sampler = custom.RandomNoise().get_noise(seed)[0], comfy.samplers.sampler_object("euler")
    return custom.SamplerCustomAdvanced().sample(noise, guider, sampler, sigmas, empty_latent())[0]["samples"]


def guided_by_two(this, positive, negative, cfg=3.0):
    return custom.DualModelGuider.execute(positive, this.text(0), cfg, negative, this.text(1))[0]


@two_models
def test_experts_act_on_the_model_they_were_put_on():
    """The negative MODEL of a DualModelGuider is another network, and stays as it is."""
    this, cfg = world("wan"), 3.0
    sigmas, other = this.schedule.sigmas(STEPS), second().network
    result = advanced(guided_by_two(this, this.applied(), second().model(), cfg), sigmas)
    semantic, detail = this.merged(this.semantic), this.merged(this.semantic, this.detail)

    def guided(positive, negative):
        wanted, unwanted = this.velocity(positive, this.text(0)), this.velocity(negative, this.text(1))
        return lambda x, sigma: unwanted(x, sigma) + cfg * (wanted(x, sigma) - unwanted(x, sigma))

    def truth(negative_in_detail_steps):
        model = with_experts(guided(semantic, other), guided(detail, negative_in_detail_steps), this.schedule)
        return euler(model, comfy.sample.prepare_noise(empty_latent()["samples"], 0), sigmas)

    latent_format = this.model().model.latent_format
    changed = second().merged(this.detail)
    expected, wrong = (latent_format.process_out(truth(negative)) for negative in (other, changed))
    assert_same(result, expected, wrong, 1e-4)


@two_models
def test_a_lora_at_two_strengths_on_the_second_model_is_refused(put):
    """Nothing would be called there of what switches it; with one strength it is in the weights."""
    this = world("wan")
    tensors, sigmas = all_of(Maker(this.network).pair), this.schedule.sigmas(STEPS)
    switched, plain = (put(second().model(), tensors, *strengths)[0] for strengths in ((1.0, 0.4), (1.0, 1.0)))
    with pytest.raises(ValueError, match=r"makes style.safetensors act at two strengths: give both"):
        advanced(guided_by_two(this, this.model(), switched), sigmas)
    advanced(guided_by_two(this, put(this.model(), tensors, 1.0, 0.4)[0], plain), sigmas)


@two_models
def test_rounded_timesteps_are_told_to_the_model_they_were_put_on():
    this = world("hunyuan_video")
    told = {"positive": [], "negative": []}
    models = {"positive": this.applied(bf16_timestep=True), "negative": this.model()}
    for side, model in models.items():

        def note(module, args, kwargs, side=side):
            told[side].append(float(args[1][0]))

        model.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)
    sigmas = this.schedule.sigmas(STEPS)
    advanced(guided_by_two(this, models["positive"], models["negative"]), sigmas)
    true = (1000 * sigmas[:-1]).tolist()
    assert told["negative"] == pytest.approx(true, abs=1e-3)
    assert told["positive"] == (1000 * sigmas[:-1]).bfloat16().tolist() != pytest.approx(true, abs=1e-3)


@two_models
def test_a_baked_expert_that_the_first_models_weights_replaced_is_said(caplog):
    """DualModelGuider over clones of one network: the host patches it for the positive MODEL."""
    this = world("wan")
    plain, sigmas = this.model(), this.schedule.sigmas(STEPS)
    baked = this.baked(this.applied(plain))[0]
    advanced(guided_by_two(this, plain, baked), sigmas)
    assert "its expert did not act" in caplog.text
    caplog.clear()
    advanced(guided_by_two(this, second().model(), baked), sigmas)  # a network of its own
    this.custom_sampled(baked, sigmas)
    assert "did not act" not in caplog.text


@two_models
def test_experts_that_would_not_act_are_refused():
    this, plain = world("wan"), second().model()
    sigmas = this.schedule.sigmas(STEPS)
    for positive in (plain, this.applied()):
        with pytest.raises(ValueError, match="connect a MODEL without DCM Apply Experts"):
            advanced(guided_by_two(this, positive, this.applied()), sigmas)
    # Nothing is left of it, and where the negative one is not asked there is nothing to refuse.
    model = this.applied()
    alone = this.custom_sampled(model, sigmas)
    assert torch.equal(advanced(guided_by_two(this, model, this.applied(), cfg=1.0), sigmas), alone)
    # The same MODEL twice is ordinary guidance, and of DCM Bake's the experts are in the weights.
    assert torch.isfinite(advanced(guided_by_two(this, plain, this.baked()[0]), sigmas)).all()
    both = advanced(guided_by_two(this, model, model), sigmas)
    assert relative(both, this.custom_sampled(model, sigmas, cfg=3.0)) <= 1e-5


@two_models
def test_a_second_model_of_the_same_network_is_warned_of(caplog):
    this, plain = world("wan"), world("wan").model()
    sigmas, model = this.schedule.sigmas(STEPS), this.applied()
    semantic, detail = this.baked(model)
    lora = with_lora(model, seed=3)
    for positive, negative in ((this.applied(plain), plain), (lora, model), (model, lora), (semantic, detail)):
        caplog.clear()
        advanced(guided_by_two(this, positive, negative), sigmas)
        assert caplog.text.count("both MODELs of this guider are one loaded network") == 1
    # Of another network, or with the same patches; a shift is not in the weights, and the noise levels are given.
    shifted = ModelSamplingSD3().patch(lora, 3.0)[0]
    for positive, negative in ((model, plain), (lora, lora.clone()), (lora, shifted), (semantic, semantic)):
        caplog.clear()
        advanced(guided_by_two(this, positive, negative), sigmas)
        assert "one loaded network" not in caplog.text


@two_models
def test_what_the_second_model_of_the_same_network_is_said_to_lose():
    """A LoRA on the negative MODEL alone does nothing, and one on the positive MODEL acts on both."""
    this = world("wan")
    sigmas, model = this.schedule.sigmas(STEPS), this.applied()
    lora = with_lora(model, seed=3)
    alike = {positive: advanced(guided_by_two(this, positive, positive), sigmas) for positive in (model, lora)}
    assert torch.equal(advanced(guided_by_two(this, model, lora), sigmas), alike[model])
    assert torch.equal(advanced(guided_by_two(this, lora, model), sigmas), alike[lora])
    assert relative(alike[model], alike[lora]) > 1e-2
