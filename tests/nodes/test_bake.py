"""DCMBake: two ordinary MODELs that make, one after the other, what the MODEL with experts makes in one run."""

from dataclasses import replace

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.weight_adapter import LoRAAdapter
from comfy_extras.nodes_model_merging import ModelSave
from harness import tiny
from harness.worlds import assert_same, relative, world

FAMILIES = ["wan", "hunyuan_video"]


def with_fused_pairs(this, seed=11):
    """The world with pairs for q, k and v of every qkv layer in its detail expert, and in a low-rank semantic one."""
    from dcm_pack.dcm_core.expert.layers import FusedLowRank

    generator = torch.Generator().manual_seed(seed)

    def fused(expert):
        layers = dict(expert.layers)
        for name, module in this.network.named_modules():
            if name.endswith(("qkv", ".linear1")) and isinstance(module, torch.nn.Linear):
                rows, columns = module.weight.shape
                down = torch.randn(3 * 4, columns, generator=generator) / columns**0.5
                layers[name] = FusedLowRank(down, 0.3 * torch.randn(3 * columns, 4, generator=generator), 4.0, rows)
        return replace(expert, layers=layers)

    return replace(this, semantic=fused(this.semantic), detail=fused(this.detail))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_two_runs_equal_one(family):
    """Two stock samplers, or the two MODELs as a pair in one of ours."""
    this = world(family)
    expected = this.sampled(this.applied())
    semantic, detail = this.baked()
    assert_same(this.in_two_runs(semantic, detail), expected, this.without_detail(), 1e-4)
    assert relative(this.in_two_runs(detail, semantic), expected) > 1e-2
    pair = this.sampled(semantic, low_noise_model=detail)
    assert_same(pair, expected, this.without_detail(), 1e-4)
    for model in (semantic, detail):
        assert not model.get_additional_models(), "nothing is left to act beside the weights"


@pytest.mark.parametrize("strengths", [{}, {"semantic_strength": 0.6, "detail_strength": -0.4}])
def test_every_kind_of_change(strengths):
    """Pairs (of fused layers too), differences, new weights and bare Parameters, against weights merged by dcm_core."""
    from dcm_pack.dcm_core.expert.layers import Difference, Replacement
    from dcm_pack.dcm_core.expert.merge import merged

    this = with_fused_pairs(world("hunyuan_video"))
    generator = torch.Generator().manual_seed(3)

    def setting(expert):
        name = next(name for name in expert.layers if name.startswith("time_in."))
        module = this.network.get_submodule(name)
        rows, columns = module.weight.shape
        new = Replacement(torch.randn(rows, columns, generator=generator) / columns**0.5, module.bias.clone())
        return replace(expert, layers=expert.layers | {name: new})

    this = replace(this, semantic=setting(this.semantic), detail=setting(this.detail))
    assert {Difference, Replacement} < {type(layer) for layer in this.semantic.layers.values()}
    models = [this.applied(**strengths), *this.baked(this.applied(**strengths))]
    states = [this.network.state_dict()]
    for expert, name in ((this.semantic, "semantic_strength"), (this.detail, "detail_strength")):
        states.append(merged(states[-1], expert, strengths.get(name, 1.0)))
    networks = []
    for state in states[1:]:
        networks.append(this.merged())
        networks[-1].load_state_dict(state)
    sigmas = this.schedule.sigmas(4)
    expected = this.truth(sigmas, *networks)
    process = models[0].model.process_latent_in
    alone = this.truth(sigmas, networks[0], networks[0])
    assert_same(process(this.sampled(models[0])), expected, alone, 1e-4)
    assert_same(process(this.in_two_runs(*models[1:])), expected, alone, 1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.01), ("float16", 0.0015), ("float8_e4m3fn", 0.15)])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_fewer_bits(family, dtype, tolerance):
    """Merged weights are rounded to the storage format; the detail expert beside them is not."""
    this = world(family)
    expected = this.sampled(this.applied(this.model(dtype=getattr(torch, dtype))))
    semantic, detail = this.baked(this.applied(this.model(dtype=getattr(torch, dtype))))
    assert detail.model.get_dtype() == getattr(torch, dtype)
    result = this.in_two_runs(semantic, detail)
    assert relative(result, expected) < tolerance
    only_semantic = this.in_two_runs(semantic, semantic)
    assert relative(only_semantic, expected) > 1.5 * tolerance, "the detail expert is lost in the rounding"


def test_other_patches_stay():
    this = world("wan")
    generator = torch.Generator().manual_seed(5)
    weight = "diffusion_model.blocks.0.self_attn.q.weight"
    pair = torch.randn(128, 4, generator=generator), 0.1 * torch.randn(4, 128, generator=generator)

    def with_lora(model):
        model = model.clone()
        model.add_patches({weight: LoRAAdapter(set(), (*pair, 4.0, None, None, None))})
        return model

    expected = this.sampled(this.applied(with_lora(this.model())))
    assert relative(expected, this.sampled(this.applied())) > 1e-2
    before = this.in_two_runs(*this.baked(this.applied(with_lora(this.model()))))
    after = this.in_two_runs(*(with_lora(model) for model in this.baked()))
    assert relative(before, expected) < 1e-4 and relative(after, expected) < 1e-4


def test_models_of_one_network_do_not_touch_each_other():
    this = world("wan")
    plain = this.model()
    experts = this.applied(plain)
    semantic, detail = this.baked(experts)
    runs = {
        "plain": lambda: this.custom_sampled(plain, this.schedule.sigmas(4)),
        "experts": lambda: this.sampled(experts),
        "semantic": lambda: this.custom_sampled(semantic, this.schedule.sigmas(4)),
        "detail": lambda: this.custom_sampled(detail, this.schedule.sigmas(4)),
    }
    first = {name: run() for name, run in runs.items()}
    for name in ("detail", "plain", "semantic", "experts", "detail", "semantic", "plain", "experts"):
        assert torch.equal(runs[name](), first[name]), name
    assert relative(first["semantic"], first["detail"]) > 1e-2


def test_experts_over_a_baked_model_replace_the_baked_ones():
    this = world("wan")
    expected = this.sampled(this.applied())
    for model in this.baked(this.applied(detail_strength=0.3, semantic_strength=0.7)):
        assert torch.equal(this.sampled(this.applied(model)), expected)
        again = this.baked(this.applied(model))
        assert relative(this.in_two_runs(*again), expected) < 1e-4


def test_only_a_model_with_experts_can_be_baked():
    this = world("wan")
    with pytest.raises(ValueError, match="has no experts.*DCM Apply Experts"):
        this.baked(this.model())
    for model, kind in zip(this.baked(), ("semantic", "detail"), strict=True):
        with pytest.raises(ValueError, match=f"{kind} expert in its weights already.*DCM Apply Experts"):
            this.baked(model.clone())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_the_baked_one(family, tmp_path, monkeypatch):
    """Bare Parameters included, which no LoRA file could carry."""
    this = world(family)
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    generator = torch.Generator().manual_seed(4)
    bare = {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in this.network.named_parameters()
        if name.endswith("modulation")
    }
    this = replace(this, detail=replace(this.detail, parameters=bare))
    detail = this.baked()[1]
    expected = this.custom_sampled(detail, this.schedule.sigmas(4))
    ModelSave().save(detail, "baked")
    (file,) = tmp_path.glob("baked*.safetensors")
    loaded = comfy.sd.load_diffusion_model(str(file))
    assert torch.equal(this.custom_sampled(loaded, this.schedule.sigmas(4)), expected)
    assert relative(this.custom_sampled(this.model(), this.schedule.sigmas(4)), expected) > 1e-2
