"""What a user can get wrong, and what the nodes say about it."""

from dataclasses import replace

import pytest
import torch
from dcm_pack.dcm_core.errors import ExpertFileError
from dcm_pack.dcm_core.expert.fingerprint import fingerprint, logical_shapes, norm_tensors
from dcm_pack.dcm_core.expert.layers import Difference, Expert, Replacement
from harness import tiny
from harness.worlds import dcm_node, empty_latent, world


@pytest.fixture
def this():
    return world("wan")


def apply(model, detail, semantic=None, **options):
    return dcm_node("DCMApplyExperts").execute(model, detail, semantic, **options)


def test_experts_at_each_others_input(this):
    with pytest.raises(ValueError, match="semantic expert is connected to detail_expert"):
        apply(this.model(), this.semantic, this.detail)


def test_expert_of_another_family(this):
    other = world("hunyuan_video")
    with pytest.raises(ExpertFileError, match="hunyuan_video family, the backbone is wan"):
        apply(this.model(), other.detail)


def test_expert_for_another_size(this):
    layers = dict(this.detail.layers)
    layers["blocks.7.self_attn.q"] = layers["blocks.0.self_attn.q"]
    layers["blocks.0.self_attn.k"] = layers["time_projection.1"]
    with pytest.raises(ExpertFileError) as error:
        apply(this.model(), Expert(this.detail.metadata, layers))
    assert "unexpected: blocks.7.self_attn.q.weight" in str(error.value)
    width = this.network.dim
    assert f"blocks.0.self_attn.k.weight [{6 * width}, {width}] for [{width}, {width}]" in str(error.value)


def test_expert_for_a_wider_and_deeper_backbone(this):
    """Like one for 14B over 1.3B."""
    network = tiny.wan(dim=256, blocks=3)
    detail = tiny.random_expert(network, "wan", "detail", seed=0)
    made_for = fingerprint("wan", logical_shapes(network), norm_tensors(network.state_dict()))
    metadata = replace(detail.metadata, backbone="Wan 2.1 14B T2V", base_fingerprint=made_for)
    with pytest.raises(ExpertFileError) as error:
        apply(this.model(), Expert(metadata, detail.layers))
    for said in (
        "other layers (Wan 2.1 14B T2V), this one is Wan 2.1 T2V of width 128 with 2 blocks",
        "unexpected: blocks.2.self_attn.q.weight",
        "wrong shape: time_embedding.0.weight [256, 256] for [128, 256]",
        "Choose an expert made for this backbone",
    ):
        assert said in str(error.value)


def test_expert_for_a_backbone_of_the_same_name_names_the_layers_that_differ(this):
    backbone = "Wan 2.1 T2V of width 128 with 2 blocks"
    metadata = replace(this.detail.metadata, backbone=backbone, base_fingerprint="wan:0:0")
    with pytest.raises(ExpertFileError, match="alike, so they differ in others: the input layer"):
        apply(this.model(), Expert(metadata, this.detail.layers))
    narrow = replace(this.detail.layers["time_embedding.0"], weight=torch.zeros(64, 256), bias=torch.zeros(64))
    with pytest.raises(ExpertFileError, match=r"They differ in time_embedding.0.weight \[64, 256\] for \[128, 256\]"):
        apply(this.model(), Expert(metadata, this.detail.layers | {"time_embedding.0": narrow}))


def test_a_replaced_layer_without_its_bias_is_refused_by_its_name(this):
    weight = this.detail.layers["time_embedding.0"].weight
    for layer in (Difference(weight), Replacement(weight)):
        half = Expert(this.detail.metadata, this.detail.layers | {"time_embedding.0": layer})
        with pytest.raises(ExpertFileError, match="without their bias.*time_embedding.0.bias"):
            apply(this.model(), half)


def test_expert_for_other_weights_of_the_same_shape_is_a_warning(this, caplog):
    detail = Expert(replace(this.detail.metadata, base_fingerprint="wan:0:0"), this.detail.layers)
    with pytest.raises(ExpertFileError, match="other layers"):
        apply(this.model(), detail, this.semantic)
    shapes = this.detail.metadata.base_fingerprint.rsplit(":", 1)[0]
    detail = Expert(replace(this.detail.metadata, base_fingerprint=f"{shapes}:0"), this.detail.layers)
    _, info = apply(this.model(), detail, this.semantic)
    assert "Warning: detail expert: " in info and "other weights of the same shape" in info
    assert "other weights of the same shape" in caplog.text
    _, info = apply(this.model(), this.detail, this.semantic)
    assert "Warning" not in info


@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
def test_norms_are_compared_with_the_backbone_as_it_was_loaded(family):
    this = world(family)
    model = this.model()
    this.sampled(this.applied(model))  # leaves the shared network patched until the next load
    assert "Warning" not in apply(model, this.detail, this.semantic)[1]


def test_detail_expert_alone_is_allowed_and_said(this):
    model, info = apply(this.model(), this.detail)
    assert "no semantic expert is connected" in info
    assert torch.isfinite(this.sampled(model)).all()


def test_experts_over_experts_are_said(this):
    assert "had experts already" in apply(this.applied(), this.detail, this.semantic)[1]


def test_the_switch_is_told_in_one_line(this):
    _, info = apply(this.model(), this.detail, this.semantic)
    assert info == (
        "SemE above sigma 0.9765, DetE from there down; 4 steps: SemE 2 steps 1.000 0.989 | DetE 2 steps 0.975 0.905"
    )


def test_kappa_outside_the_grid(this):
    with pytest.raises(ValueError, match="0.1"):
        apply(this.model(), this.detail, kappa=0.1)


def test_model_without_experts(this):
    sigmas = this.schedule.sigmas(4)
    latents, info = run(this, this.model())
    assert "no detail expert" in info
    assert torch.equal(latents["samples"], this.custom_sampled(this.model(), sigmas))


def test_model_of_no_known_family(this):
    model = this.model()
    model.model.__class__ = torch.nn.Module
    with pytest.raises(ValueError, match="is of the class Module"):
        dcm_node("DCMSigmas").execute(model, 4)


def run(this, model, latent=None, steps=4, **options):
    texts = this.text(0), this.text(1)
    return dcm_node("DCMKSampler").execute(model, 0, steps, 1.0, *texts, latent or empty_latent(), **options)


@pytest.mark.parametrize("kind", ["semantic", "detail"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_names_step_and_expert(this, kind, value):
    expert = getattr(this, kind)
    name = "time_projection.1"
    broken = replace(expert.layers[name], weight=torch.full_like(expert.layers[name].weight, value))
    broken = Expert(expert.metadata, {**expert.layers, name: broken}, expert.parameters)
    experts = {"semantic": this.semantic, "detail": this.detail, kind: broken}
    model, _ = apply(this.model(), experts["detail"], experts["semantic"])
    step, sigma = (1, "1.0000") if kind == "semantic" else (3, "0.9754")
    with pytest.raises(ValueError, match=rf"step {step} of 4 \(sigma {sigma}\), by the {kind} expert.*Likely cause"):
        run(this, model)
    with pytest.raises(ValueError, match=f"by the {kind} expert"):
        this.custom_sampled(model, this.schedule.sigmas(4))


def test_a_plain_model_that_returns_nan_is_an_error_too(this):
    model = this.model()
    model.model.diffusion_model.head.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="holds NaN or Inf, though no expert"):
        run(this, model)


def test_conditioning_that_is_not_finite_is_named(this):
    text = this.text()
    text[0][0] = text[0][0] * float("nan")
    with pytest.raises(ValueError, match="step 1 of 4 .*conditioning is not finite"):
        dcm_node("DCMKSampler").execute(this.applied(), 0, 4, 1.0, text, text, empty_latent())


@pytest.mark.parametrize("shape", [(1, 4, 3, 8, 8), (1, 16, 3, 1, 8, 8), (1, 48, 3, 8, 8)], ids=str)
def test_latent_of_another_kind(this, shape):
    with pytest.raises(ValueError, match=r"takes \[batch, 16, frames, height, width\].*EmptyHunyuanLatentVideo"):
        run(this, this.applied(), {"samples": torch.ones(shape)})


def test_latent_that_is_not_finite(this):
    with pytest.raises(ValueError, match="LATENT holds NaN"):
        run(this, this.applied(), {"samples": torch.full((1, 16, 3, 8, 8), float("nan"))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 51}, "50"),
        ({"semantic_steps": 4}, "use 1 to 3"),
        ({"denoise": 0.0}, "denoise"),
        ({"start_at_step": 4}, "start_at_step is 4"),
        ({"start_at_step": 2, "end_at_step": 2}, "end_at_step is 2"),
        ({"sigmas": torch.tensor([1.0, 0.5, 0.6, 0.0])}, "must fall"),
        ({"sigmas": torch.tensor([14.6, 2.0, 0.0])}, "0..1"),
        ({"sigmas": torch.tensor([])}, "no step|0 value"),
        ({"sampler_name": "eulr"}, "no sampler 'eulr'"),
    ],
    ids=str,
)
def test_runs_that_cannot_be(this, options, message):
    with pytest.raises(ValueError, match=message):
        run(this, this.applied(), **options)


def test_sigmas_that_starve_an_expert(this):
    model = this.applied()
    _, info = run(this, model, sigmas=torch.tensor([1.0, 0.99, 0.98]))
    assert "no step is the detail expert's" in info
    _, info = run(this, model, sigmas=torch.tensor([0.9, 0.5, 0.0]))
    assert "no step is the semantic expert's" in info
    _, info = run(this, model)
    assert info == "SemE 2 steps 1.000 0.989 | DetE 2 steps 0.975 0.905"
    cut = run(this, model, end_at_step=2)[1]
    assert cut == "SemE 2 steps 1.000 0.989 | DetE 0 steps; set: end_at_step 2"


def test_unusual_samplers_are_said(this):
    assert "heun is unusual" in run(this, this.applied(), sampler_name="heun")[1]


def test_sigmas_of_both_experts_in_one_call(this):
    from dcm_pack.nodes.experts.switch import ExpertSwitch

    model = this.applied()
    (switch,) = [w for w in model.get_all_wrappers("apply_model") if isinstance(w, ExpertSwitch)]
    with pytest.raises(ValueError, match=r"sigmas of both experts \(0.5000, 1.0000"):
        switch(None, torch.zeros(2, 16, 3, 8, 8), torch.tensor([1.0, 0.5]))


def test_official_rule_where_nothing_was_published(this):
    dcm_sigmas = dcm_node("DCMSigmas")
    assert dcm_sigmas.execute(this.applied(), 6, preset="official")[0].tolist()[:-1] == pytest.approx(
        [1.0, 0.992, 0.982, 0.949, 0.905, 0.810]
    )
    with pytest.raises(ValueError, match="rule"):
        dcm_sigmas.execute(this.applied(), 6, preset="oficial")


def test_missing_files():
    with pytest.raises(FileNotFoundError, match="models/dcm or models/loras"):
        dcm_node("DCMLoadExpert").execute("nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="models/diffusion_models"):
        dcm_node("DCMLoadBackbone").execute("nothing.safetensors", "default")
