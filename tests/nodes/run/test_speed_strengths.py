"""Speed LoRAs behind DCM LoRA, which the MODEL knows itself, and the strengths that any loader gives them."""

from dataclasses import replace

import pytest
import torch
from dcm_pack.dcm_core.schedule.passport import KEYS, levels, write_passport
from dcm_pack.dcm_core.schedule.speed_loras import SPEED_PRESETS
from harness.speed_loras import KNOWN, LIGHTX2V, RCM, by_dcm_lora, graph, loaded, run, running
from harness.worlds import world

import nodes


@pytest.fixture
def this():
    return world("wan")


@pytest.mark.parametrize(("family", "name", "title"), KNOWN, ids=[title for *_, title in KNOWN])
def test_a_known_lora_by_dcm_lora(family, name, title, loras):
    """Without the graph: the MODEL knows its own."""
    this, row = world(family), SPEED_PRESETS[title]
    stamp, sampler = write_passport(replace(row, title=title)), (row.samplers or ("euler",))[0]
    expected = run(this, loaded(this.model(), loras, name), {}, sampler_name=sampler, sigmas=levels(row))[0]
    for file, metadata, why in ((name, None, "by its file's name"), ("cat.safetensors", stamp, "by its own metadata")):
        model, said = by_dcm_lora(this.model(), loras, file, metadata)
        assert f"; {title} {why}, a speed LoRA with noise levels of its own" in said
        samples, info = run(this, model, {}, sampler_name=sampler)
        assert info.startswith(f"{title}: ") and f" ({why})" in info
        assert torch.equal(samples, expected)
        wrong = run(this, model, {}, sigmas=torch.tensor([1.0, 0.77, 0.33, 0.0]), sampler_name=sampler)[1]
        assert wrong.count("Warning") == 1 and f"{title} ({why}) is made for the noise levels" in wrong


def test_dcm_lora_on_the_sides_where_it_acts(this, loras):
    off, _ = by_dcm_lora(this.model(), loras, LIGHTX2V, semantic=0.0, detail=0.0)
    assert "lightx2v" not in run(this, off, {"9": {"class_type": "DCMKSampler", "inputs": {}}})[1]
    low, _ = by_dcm_lora(this.model(), loras, LIGHTX2V, semantic=0.0)
    prompt = graph({"lora_name": LIGHTX2V, "strength_semantic": 0.0, "strength_detail": 1.0})
    prompt["model 1"]["class_type"] = "DCMLora"
    for each in ({}, prompt):  # in the graph it is found once, by the MODEL
        assert run(this, low, each)[1] == "wan2.1 lightx2v: 4 steps 1.000 0.938 0.833 0.625 (by its file's name)"
        assert "Warning" not in run(this, low, each, cfg=3.5, detail_cfg=1.0)[1]
        assert "is made for a cfg of 1: set detail_cfg to 1" in run(this, low, each, cfg=1.0, detail_cfg=3.5)[1]
    # Of a pair, the high-noise MODEL has no steps in which it would act.
    assert "lightx2v" not in run(this, low, {}, low_noise_model=this.model())[1]
    assert "wan2.1 lightx2v by its file's name" in run(this, this.model(), {}, low_noise_model=low)[1]
    shown = running("DCMSigmas", {}).execute(low, 0)[1]
    assert shown.startswith("wan2.1 lightx2v: 4 steps") and "by its file's name" in shown
    guider, info = running("DCMGuider", {}).execute(low, this.text(0), this.text(1)).args
    assert info.startswith("no switch; wan2.1 lightx2v: 4 steps")
    both, _ = by_dcm_lora(low, loras, RCM, detail=0.0)
    said = run(this, both, {}, sampler_name="lcm")[1]
    assert "of the semantic and the detail steps, wan2.1 rcm and wan2.1 lightx2v, are for different" in said
    assert said.startswith("wan2.1 rcm: 4 steps")


def test_a_passport_that_contradicts_itself_is_said_where_it_is_loaded(this, loras):
    model, info = by_dcm_lora(this.model(), loras, "broken.safetensors", {f"{KEYS}sigmas.4": "[1.0, 0.5]"})
    assert "contradicts itself" in info and "Its noise levels are not used." in info
    assert run(this, model, {})[1].count("contradicts itself") == 1


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0, 3.0, 3.5, -1.0])
def test_a_strength_that_is_not_the_loras(this, loras, strength):
    is_said = strength in (0.3, 3.5, -1.0)
    loaded(this.model(), loras, LIGHTX2V)
    stock = nodes.LoraLoaderModelOnly().load_lora_model_only(this.model(), LIGHTX2V, strength)[0]
    prompts = [{"lora_name": LIGHTX2V, "strength_model": strength}, {"a": {"lora": LIGHTX2V, "strength": strength}}]
    infos = [run(this, stock, graph(each))[1] for each in prompts]
    infos.append(run(this, by_dcm_lora(this.model(), loras, LIGHTX2V, detail=strength)[0], {})[1])
    said = f"is made for a strength of 1: load it with that, not with {strength:g}."
    assert [info.count("Warning") for info in infos] == [is_said] * 3
    assert [said in info for info in infos] == [is_said] * 3
    if is_said:
        pair = run(this, this.model(), graph(low=[prompts[0]]), low_noise_model=stock)[1]
        assert "load the one at low_noise_model with that" in pair


def test_a_strength_that_nobody_tells(this, loras):
    model = loaded(this.model(), loras, LIGHTX2V)
    half = {"lora_name": LIGHTX2V, "strength_model": 0.4}
    for loaders in ([{"lora_name": LIGHTX2V, "strength_model": ["4", 0]}], [half, half]):
        info = run(this, model, graph(*loaders))[1]
        assert info.startswith("wan2.1 lightx2v") and "Warning" not in info
