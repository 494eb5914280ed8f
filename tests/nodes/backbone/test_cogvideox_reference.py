"""CogVideoX in a bundle as others are released: the nodes compute what diffusers and peft do (tests/reference)."""

import pytest
import torch
from dcm_pack.dcm_core.families import cogvideox as cogvideox_family
from dcm_pack.dcm_core.families.presets import find_family, preset
from dcm_pack.nodes.backbone import cogvideox
from dcm_pack.nodes.backbone.model import host_class
from harness.published import folder
from harness.worlds import dcm_node, relative
from safetensors.torch import load_file, save_file

known = pytest.mark.skipif(not host_class(find_family("cogvideox")), reason="this ComfyUI has no CogVideoX")
KINDS = ["cogvideox", "cogvideox_2b", "cogvideox_i2v", "cogvideox_15_i2v"]
RELEASED = "released/diffusion_pytorch_model.safetensors"
DIFFUSERS = "diffusers/diffusion_pytorch_model.safetensors"
TOLERANCE = 1e-4
NOTICED = 100 * TOLERANCE
# As tests/reference/cogvideox.py has them.
SEED, SEMANTIC_TIMESTEP, DETAIL_TIMESTEP = 7, 879, 379


@pytest.fixture(autouse=True)
def small_2b(monkeypatch, request):
    """The tiny 2B of the reference has 3 heads, where the real one has 30."""
    if "cogvideox_2b" in request.node.name:
        monkeypatch.setattr(cogvideox_family, "_HEADS_OF_2B", 3)


def applied(kind, name=RELEASED):
    folder()
    model, expert = dcm_node("DCMLoadBackbone").execute(f"{kind}/{name}", "default").args
    return dcm_node("DCMApplyExperts").execute(model, expert).args[0]


def latents(kind, model, sigmas=None):
    """What DCMKSampler makes in 4 steps, or down the given sigmas; in the network's units."""
    expected = load_file(folder() / f"{kind}.safetensors")
    options = {}
    if "image" in expected:
        options["concat_latent_image"] = model.model.process_latent_out(expected["image"].clone())
    texts = [[[expected["text"], options]]] * 2
    empty = {"samples": torch.zeros_like(expected["latents"])}
    done = dcm_node("DCMKSampler").execute(model, SEED, 4, 1.0, *texts, empty, sigmas=sigmas)
    return model.model.process_latent_in(done[0]["samples"]), expected


@known
@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_and_the_whole_run(kind):
    model, table = applied(kind), preset("cogvideox_2b" if "2b" in kind else "cogvideox").grid.curve.table
    result, expected = latents(kind, model)
    assert relative(result, expected["latents"]) <= TOLERANCE
    assert relative(result, expected["latents_from_zero"]) <= 10 * TOLERANCE
    for name, timestep in (("semantic", SEMANTIC_TIMESTEP), ("detail", DETAIL_TIMESTEP)):
        result, _ = latents(kind, model, torch.tensor([table[timestep], 0.0]))
        assert relative(result, expected[name]) <= TOLERANCE
    assert relative(expected["semantic"], expected["detail"]) > NOTICED


@known
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cogvideox", "model_sampling"),
        ("cogvideox", "_get_rotary_emb"),
        ("cogvideox_2b", "model_sampling"),
        ("cogvideox_2b", "patch_embed.forward"),
        ("cogvideox_i2v", "use_rotary_positional_embeddings"),
    ],
)
def test_without_one_of_the_patches_it_would_be_another_video(kind, name, monkeypatch):
    whole = cogvideox.run_as_released

    def lacking(*args):
        model = whole(*args)
        (key,) = (key for key in model.object_patches if key.endswith(name))
        del model.object_patches[key]
        return model

    monkeypatch.setattr(cogvideox, "run_as_released", lacking)
    result, expected = latents(kind, applied(kind))
    assert not relative(result, expected["latents"]) <= 10 * TOLERANCE


WRONG_WEIGHTS = {
    "LoRA scale 1 instead of 2": lambda state: {
        name: 0.5 * tensor for name, tensor in state.items() if ".lora_B." in name
    },
    "time twin removed": lambda state: twin_is_its_original(state, "time_embedding_lora"),
    "twin of the last modulation removed": lambda state: twin_is_its_original(state, "norm_out_lora"),
    "output twin removed": lambda state: twin_is_its_original(state, "proj_out_lora"),
}


def twin_is_its_original(state, twin):
    return {name: state[name.replace("_lora.", ".", 1)] for name in state if name.startswith(twin)}


@known
@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_weights_that_are_wrong_in_one_thing_are_noticed(wrong):
    place = folder() / "cogvideox"
    state = load_file(place / RELEASED)
    changed = WRONG_WEIGHTS[wrong](state)
    assert changed and changed.keys() <= state.keys()
    save_file({name: tensor.clone() for name, tensor in (state | changed).items()}, place / "wrong.safetensors")
    result, expected = latents("cogvideox", applied("cogvideox", "wrong.safetensors"))
    assert relative(result, expected["latents"]) > NOTICED


@known
def test_a_diffusers_file_runs_without_experts():
    """The semantic expert alone is the same in both layouts."""
    folder()
    plain, expert = dcm_node("DCMLoadBackbone").execute(f"cogvideox/{DIFFUSERS}", "default").args
    assert expert is None
    table = preset("cogvideox").grid.curve.table
    result, expected = latents("cogvideox", plain, torch.tensor([table[SEMANTIC_TIMESTEP], 0.0]))
    assert relative(result, expected["semantic"]) <= TOLERANCE


@pytest.mark.skipif(bool(host_class(find_family("cogvideox"))), reason="this ComfyUI has CogVideoX")
@pytest.mark.parametrize("name", [DIFFUSERS, RELEASED])
def test_an_older_host_is_named_as_the_reason(name):
    folder()
    with pytest.raises(ValueError, match=r"CogVideoX needs ComfyUI 0\.20 or newer"):
        dcm_node("DCMLoadBackbone").execute(f"cogvideox/{name}", "default")
