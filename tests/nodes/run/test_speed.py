"""Speed LoRAs behind stock loaders: known ones run at the defaults on their own levels, wrong runs are warned of."""

import logging
import os
from dataclasses import replace

import pytest
import torch
from dcm_pack.dcm_core.errors import ExpertFileError
from dcm_pack.dcm_core.expert.file import save_expert
from dcm_pack.dcm_core.families.presets import find_family
from dcm_pack.dcm_core.schedule.passport import KEYS, Passport, levels, write_passport
from dcm_pack.dcm_core.schedule.speed_loras import SPEED_PRESETS
from dcm_pack.nodes.backbone.model import host_class
from harness.speed_loras import HIGH, KNOWN, LIGHTX2V, LOW, RCM, graph, loaded, run, running
from harness.worlds import dcm_node, world


@pytest.fixture
def this():
    return world("wan")


@pytest.mark.parametrize(("family", "name", "title"), KNOWN, ids=[title for *_, title in KNOWN])
def test_a_known_lora_runs_on_its_own_levels(family, name, title, loras):
    this, row = world(family), SPEED_PRESETS[title]
    model, sampler = loaded(this.model(), loras, name), (row.samplers or ("euler",))[0]
    sigmas, shown, _ = running("DCMSigmas", graph(name)).execute(model, 0).args
    assert sigmas.tolist() == levels(row).tolist()
    samples, info = run(this, model, graph(name), sampler_name=sampler)
    assert info.startswith(f"{title}: {len(sigmas) - 1} step") and " (by its file's name)" in info
    explicit, _ = run(this, model, {}, sampler_name=sampler, sigmas=levels(row))
    assert torch.equal(samples, explicit)
    stamped = loaded(this.model(), loras, "stamped.safetensors", write_passport(replace(row, title=title)))
    again, info = run(this, stamped, graph("stamped.safetensors"), sampler_name=sampler)
    assert torch.equal(samples, again) and " (by its own metadata)" in info
    assert title in shown and "by its file's name" in shown and "Warning" not in shown + info


def test_a_stamped_file_tells_without_a_graph_where_the_host_keeps_metadata(this, loras):
    own = Passport({3: (1.0, 0.7, 0.4), 2: (1.0, 0.5)}, cfg=1.0, title="tidal turbo")
    model = loaded(this.model(), loras, "cat.safetensors", write_passport(own))
    assert (
        "tidal turbo: 3 steps 1.000 0.700 0.400 (by its own metadata)" in run(this, model, graph("cat.safetensors"))[1]
    )
    info = run(this, model, {})[1]
    if model.get_attachment("lora_metadata"):
        assert info == "tidal turbo: 3 steps 1.000 0.700 0.400 (by its own metadata)"
    else:  # 0.3.64
        assert "no noise levels are known of what is patched onto this MODEL" in info
    with pytest.raises(ValueError, match="tidal turbo has noise levels for 2 or 3 steps, not for 4"):
        run(this, model, graph("cat.safetensors"), steps=4)


def test_a_pair(this, loras):
    high, low = loaded(this.model(), loras, HIGH), loaded(this.model(), loras, LOW)
    loaded(this.model(), loras, LIGHTX2V)
    pair = {"low_noise_model": low}
    samples, info = run(this, high, graph(HIGH, low=[LOW]), **pair)
    assert info == (
        "high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625 (wan2.2 lightning by its file's name)"
    )
    assert torch.equal(samples, run(this, high, {}, **pair)[0])  # as Wan 2.2's pairs run anyway
    with pytest.raises(ValueError, match="for 4 or 8 steps, not for 6"):
        run(this, high, graph(HIGH, low=[LOW]), steps=6, **pair)
    swapped = run(this, high, graph(LOW, low=[HIGH]), **pair)[1]
    assert swapped.count("Warning") == 1 and "swap the two LoRAs" in swapped
    loaded(this.model(), loras, RCM)
    unlike = run(this, high, graph(HIGH, low=[RCM]), **pair)[1]
    assert "wan2.2 lightning and wan2.1 rcm, are for different noise levels" in unlike
    # Made for the same four noise levels, of which one has also eight.
    mixed = run(this, high, graph(HIGH, low=[LIGHTX2V]), **pair)[1]
    assert mixed.startswith("high noise 2 steps 1.000 0.938 | low noise 2 steps 0.833 0.625") and "Warning" not in mixed
    more = run(this, high, graph(HIGH, low=[LIGHTX2V]), steps=8, **pair)[1]
    assert more.count("Warning") == 1
    assert "wan2.1 lightx2v (by its file's name) has no noise levels for 8 steps: set steps to 4." in more
    typed = write_passport(Passport({4: (1.0, 0.9375, 0.8333, 0.625)}, title="typed"))
    loaded(this.model(), loras, "typed.safetensors", typed)
    assert "Warning" not in run(this, high, graph(HIGH, low=["typed.safetensors"]), **pair)[1]
    assert "Warning" not in run(this, high, graph(HIGH, LIGHTX2V, low=[LOW]), **pair)[1]
    # Guidance of the model that has no speed LoRA is its own affair.
    assert "Warning" not in run(this, this.model(), graph(low=[LOW]), cfg=3.5, detail_cfg=1.0, **pair)[1]


def test_the_boundary_of_a_passport(this, loras):
    own = Passport({4: (1.0, 0.9, 0.8, 0.5)}, boundary=0.85)
    model = loaded(this.model(), loras, "turbo.safetensors", write_passport(own))
    info = run(this, model, graph("turbo.safetensors"), low_noise_model=this.model())[1]
    assert "high noise 2 steps 1.000 0.900 | low noise 2 steps 0.800 0.500" in info
    side = loaded(this.model(), loras, "turbo.safetensors", write_passport(replace(own, boundary=0.6, expert="high")))
    shown = running("DCMSigmas", graph("turbo.safetensors")).execute(side, 0)[1]
    assert "high noise 3 steps 1.000 0.900 0.800 | low noise 1 step 0.500" in shown
    typed = run(this, model, graph("turbo.safetensors"), low_noise_model=this.model(), boundary=0.6)[1]
    assert "high noise 3 steps" in typed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cfg": 6.0}, "(by its file's name) is made for a cfg of 1: set cfg to 1."),
        ({"detail_cfg": 4.0}, "is made for a cfg of 1: set detail_cfg to 1."),
        ({"sampler_name": "uni_pc"}, "is made for the sampler lcm: set sampler_name to lcm."),
        (
            {"sigmas": torch.tensor([1.0, 0.9, 0.5, 0.0])},
            "is made for the noise levels 1.000 0.938 0.833 0.625: leave sigmas open.",
        ),
        (
            {"steps": 4, "denoise": 0.5},
            "625: set semantic_steps to 0 and denoise to 1 (start_at_step changes a video).",
        ),
        ({"cfg": 6.0, "sampler_name": "heun"}, "the sampler lcm and a cfg of 1: set sampler_name to lcm and set cfg"),
    ],
    ids=str,
)
def test_a_run_that_contradicts_the_lora_gets_one_warning(this, loras, options, said):
    model = loaded(this.model(), loras, LIGHTX2V)
    info = run(this, model, graph(LIGHTX2V), **options)[1]
    assert info.count("Warning") == 1 and said in info
    assert "wan2.1 lightx2v (by its file's name) is made for" in info


@pytest.mark.parametrize(
    "options", [{}, {"sampler_name": "lcm"}, {"sampler_name": "ddim"}, {"end_at_step": 2}], ids=str
)
def test_a_run_that_suits_the_lora_gets_none(this, loras, options):
    model = loaded(this.model(), loras, LIGHTX2V)
    assert "Warning" not in run(this, model, graph(LIGHTX2V), **options)[1]
    sigmas = levels(SPEED_PRESETS["wan2.1 lightx2v"])
    assert "Warning" not in run(this, model, graph(LIGHTX2V), sigmas=sigmas, **options)[1]


def test_an_unknown_lora_changes_nothing_and_says_how_to_stamp_it(this, loras):
    model = loaded(this.model(), loras, "cat.safetensors", {"ss_base_model": "wan"})
    samples, info = run(this, model, graph("cat.safetensors"))
    assert "no noise levels are known of cat.safetensors: into a speed LoRA, write them by python -m" in info
    assert torch.equal(samples, run(this, model, {}, sigmas=this.schedule.sigmas(4))[0])
    shown = running("DCMSigmas", graph("cat.safetensors")).execute(model, 0)[1]
    assert "no noise levels are known of cat.safetensors" in shown
    assert "noise levels are known" not in run(this, this.model(), graph())[1]
    beside = run(this, loaded(model, loras, LIGHTX2V), graph(LIGHTX2V, "cat.safetensors"))[1]
    assert "noise levels are known" not in beside and "wan2.1 lightx2v" in beside


def test_a_model_with_experts_keeps_their_levels(this, loras):
    model = loaded(this.applied(), loras, "cat.safetensors")
    plain, info = run(this, model, graph("cat.safetensors"))
    assert info == this.schedule.describe(this.schedule.sigmas(4))
    loaded(this.model(), loras, LIGHTX2V)
    fast, info = run(this, model, graph(LIGHTX2V))
    assert torch.equal(plain, fast)
    assert info.count("Warning") == 1 and "this run takes those of its experts: take the LoRA off." in info


@pytest.mark.parametrize(
    ("loader", "is_found"),
    [
        ({"lora_name": LIGHTX2V, "strength_model": 0.0}, False),
        ({"lora_name": LIGHTX2V, "semantic_strength": 0.0, "detail_strength": 0.5}, True),
        ({"lora_name": ["4", 0]}, False),  # another node makes the name
        ({"lora_name": ["name", 0], "strength_model": 1.0}, True),
        ({"lora_name": LIGHTX2V, "strength_model": ["strength", 0]}, False),
        ({"lora_1": {"on": True, "lora": LIGHTX2V, "strength": 0.5}}, True),
        ({"lora_1": {"on": False, "lora": LIGHTX2V, "strength": 0.5}}, False),
        ({"lora_1": {"lora": "gone.safetensors"}, "lora_2": {"lora": LIGHTX2V}}, True),
        ({"lora_name": "gone.safetensors", "strength_model": 1.0}, False),
    ],
    ids=str,
)
def test_what_counts_as_a_loader(this, loras, loader, is_found):
    model, prompt = loaded(this.model(), loras, LIGHTX2V), graph(loader)
    prompt["name"] = {"class_type": "PrimitiveString", "inputs": {"value": LIGHTX2V}}
    prompt["strength"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.0}}
    assert run(this, model, prompt)[1].startswith("wan2.1 lightx2v: 4 steps") == is_found


@pytest.mark.parametrize(
    ("inputs", "is_found"),
    [
        ({"model1": ["bare", 0], "model2": ["model 1", 0], "select": 1}, False),  # a switch: nobody tells which
        ({"model": ["model 1", 0], "model_patch": ["bare", 0]}, True),
        ({"model_in": ["model 1", 0]}, True),
    ],
    ids=str,
)
def test_only_what_leads_to_the_model_is_followed(this, loras, inputs, is_found):
    prompt = graph(LIGHTX2V)
    prompt["between"] = {"class_type": "Between", "inputs": inputs}
    prompt["9"]["inputs"]["model"] = ["between", 0]
    info = run(this, loaded(this.model(), loras, LIGHTX2V), prompt)[1]
    assert info.startswith("wan2.1 lightx2v: 4 steps" if is_found else "no experts: 4 steps")


@pytest.mark.parametrize("name", ["DCMSigmas", "DCMKSampler", "DCMGuider"])
def test_nodes_run_again_when_a_lora_was_stamped(this, loras, name):
    model = loaded(this.model(), loras, "cat.safetensors")
    node = running(name, graph("cat.safetensors"))
    running("DCMSigmas", graph("cat.safetensors")).execute(model, 0)
    before = node.fingerprint_inputs(model=None, steps=0)
    assert node.fingerprint_inputs(model=None, steps=0) == before
    os.utime(loras / "cat.safetensors", (1, 1))
    assert node.fingerprint_inputs(model=None, steps=0) == before, "written again, with no other noise levels"
    loaded(this.model(), loras, "cat.safetensors", write_passport(Passport({2: (1.0, 0.5)})))
    after = node.fingerprint_inputs(model=None, steps=0)
    assert after != before
    assert running("DCMSigmas", graph("cat.safetensors")).execute(model, 0)[0].tolist() == [1.0, 0.5, 0.0]
    assert node.fingerprint_inputs(model=None, steps=0) == after
    (loras / "cat.safetensors").unlink()
    assert node.fingerprint_inputs(model=None, steps=0) != after


@pytest.mark.skipif(not host_class(find_family("cogvideox")), reason="this ComfyUI has no CogVideoX")
def test_levels_of_flow_matching_are_for_no_other_backbone(loras):
    this = world("cogvideox")
    model = loaded(this.model(), loras, "turbo.safetensors", write_passport(Passport({4: (1.0, 0.75, 0.5, 0.25)})))
    sigmas, shown, _ = running("DCMSigmas", graph("turbo.safetensors")).execute(model, 4).args
    assert torch.equal(sigmas, this.schedule.sigmas(4))
    assert "turbo.safetensors is for flow matching, and CogVideoX takes other noise levels" in shown


def test_a_graph_that_leads_back_to_itself(this, loras):
    prompt = graph("cat.safetensors")
    prompt["model 1"]["inputs"]["model"] = ["model 1", 0]
    assert "no experts" in run(this, loaded(this.model(), loras, "cat.safetensors"), prompt)[1]


def test_loras_that_cannot_be_meant(this, loras):
    model = loaded(this.model(), loras, LIGHTX2V)
    loaded(this.model(), loras, RCM)
    two = run(this, model, graph(LIGHTX2V, RCM))[1]
    assert "wan2.1 rcm and wan2.1 lightx2v are two speed LoRAs on one MODEL" in two
    assert "no experts: 4 steps" in two
    chosen, _, _ = running("DCMSigmas", graph(LIGHTX2V, RCM)).execute(model, 0, preset="wan2.1 rcm").args
    assert "two speed LoRAs" not in run(this, model, graph(LIGHTX2V, RCM), sigmas=chosen)[1]
    loaded(this.model(), loras, "hyvideo_FastVideo_LoRA-fp8.safetensors")
    other = run(this, model, graph("hyvideo_FastVideo_LoRA-fp8.safetensors"))[1]
    assert "fasthunyuan (by its file's name) is for HunyuanVideo, and this MODEL is wan: take it off" in other
    loaded(this.model(), loras, "Wan2.1_FusionX_lightx2v.safetensors")
    either = run(this, model, graph("Wan2.1_FusionX_lightx2v.safetensors"))[1]
    assert "may be wan2.1 lightx2v or wan2.1 fusionx by its name" in either
    loaded(this.model(), loras, "broken.safetensors", {f"{KEYS}sigmas.4": "[1.0, 0.5]"})
    broken = run(this, this.model(), graph("broken.safetensors"))[1]
    assert "contradicts itself: its list for 4 steps has 2 values" in broken and "are not used" in broken
    assert broken.count("contradicts itself") == 1
    model = loaded(this.model(), loras, "broken.safetensors", {f"{KEYS}sigmas.4": "[1.0, 0.5]"})
    if model.get_attachment("lora_metadata"):  # not in 0.3.64
        assert "of the LoRA on this MODEL, the passport contradicts itself" in run(this, model, {})[1]


def test_load_expert_knows_a_speed_lora(this, loras, caplog):
    loaded(this.model(), loras, LIGHTX2V)
    load = dcm_node("DCMLoadExpert")
    with pytest.raises(
        ExpertFileError, match=r"wan2\.1 lightx2v, a speed LoRA\. Load it with DCM LoRA or a LoRA loader"
    ):
        load.execute(LIGHTX2V)
    own = Passport({6: tuple(this.schedule.sigmas(6)[:-1].tolist())}, samplers=("euler",), cfg=1.0)
    model = this.applied()
    for kind in ("semantic", "detail"):
        expert = getattr(this, kind)
        stamped = replace(expert, metadata=replace(expert.metadata, extra=write_passport(own)))
        save_expert(loras / f"{kind}.safetensors", stamped)
    caplog.set_level(logging.INFO, logger="DCM")
    semantic, detail = (load.execute(f"{kind}.safetensors")[0] for kind in ("semantic", "detail"))
    assert "by its passport sampler euler, cfg 1" in caplog.text
    for pair in ((detail, this.semantic), (this.detail, semantic)):
        stamped = dcm_node("DCMApplyExperts").execute(this.model(), *pair)[0]
        samples, info = run(this, stamped, {})
        assert info == this.schedule.describe(this.schedule.sigmas(6))
        assert torch.equal(samples, run(this, model, {}, steps=6)[0])
        wrong = run(this, stamped, {}, cfg=3.0, sampler_name="heun")[1]
        assert wrong.count("Warning") == 1
        assert "the pair of experts (by its own metadata) is made for the sampler euler and a cfg of 1" in wrong
        assert "Warning" not in run(this, stamped, {}, steps=4)[1]


def test_the_guider_warns_of_what_it_can_see(this, loras, caplog):
    model, texts = loaded(this.model(), loras, LIGHTX2V), (this.text(0), this.text(1))
    guider, info = running("DCMGuider", graph(LIGHTX2V)).execute(model, *texts, cfg=4.0).args
    assert info == "no switch; wan2.1 lightx2v: 4 steps 1.000 0.938 0.833 0.625 (by its file's name)"
    guider.begin(torch.tensor([1.0, 0.8, 0.4, 0.0]))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "noise levels 1.000 0.938 0.833 0.625 and a cfg of 1: connect DCM Sigmas with 4 steps" in warning


def test_a_preset_of_ones_own_goes_before_the_file(this, loras):
    model = loaded(this.model(), loras, LIGHTX2V)
    sigmas, shown, _ = running("DCMSigmas", graph(LIGHTX2V)).execute(model, 0, preset="wan2.1 causvid 1.3B").args
    assert sigmas.tolist() == levels(SPEED_PRESETS["wan2.1 causvid 1.3B"]).tolist() and "lightx2v" not in shown
    uneven, shown, _ = running("DCMSigmas", graph(LIGHTX2V)).execute(model, 4, semantic_steps=1).args
    assert uneven.tolist() == this.schedule.sigmas(4, 1).tolist() and "not its own noise levels" in shown
    assert "not its own" not in running("DCMSigmas", graph(LIGHTX2V)).execute(model, 4)[1]
