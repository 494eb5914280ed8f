"""The nodes, given a bundle as released, compute what the published code computes (tests/reference)."""

import pytest
import torch
from comfy.ldm.flux.layers import timestep_embedding
from harness.published import STEPS, folder, published
from harness.worlds import dcm_node, relative
from safetensors.torch import load_file, save_file

KINDS = ["wan", "hunyuan_video", "wan_i2v", "hunyuan_video_i2v"]
TOLERANCE = 1e-4
VALUES = (6000.0, 6016.0)  # of a guidance of 6: in float32, and in bfloat16
NOTICED = 100 * TOLERANCE  # how far off anything wrong must be, so that the tolerance proves something


def applied(kind: str, name: str = "released/diffusion_pytorch_model.safetensors", **options):
    return dcm_node("DCMApplyExperts").execute(*published(kind).load(name), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_and_the_whole_run_are_the_published_ones(kind):
    this = published(kind)
    model, info = applied(kind)
    assert "Warning" not in info
    assert f"{STEPS[this.family]} steps: SemE" in info, "the example is the published run"
    for name, output in this.outputs(model).items():
        assert relative(output, this.tensors[name]) <= TOLERANCE, name
    assert relative(this.tensors["semantic"], this.tensors["detail"]) > NOTICED


@pytest.mark.parametrize("kind", KINDS)
def test_stock_sampler_nodes_make_the_published_run(kind):
    this = published(kind)
    assert relative(this.latents_by_stock_nodes(applied(kind)[0]), this.tensors["latents"]) <= TOLERANCE


@pytest.mark.parametrize("kind", ["hunyuan_video", "hunyuan_video_i2v"])
def test_the_published_run_with_timesteps_in_bfloat16(kind):
    this = published(kind)
    model = applied(kind, bf16_timestep=True)[0]
    assert relative(this.latents(model), this.tensors["latents_bf16"]) <= TOLERANCE
    assert relative(this.tensors["latents"], this.tensors["latents_bf16"]) > NOTICED
    again = dcm_node("DCMApplyExperts").execute(model, published(kind).load()[1])[0]
    assert relative(this.latents(again), this.tensors["latents"]) <= TOLERANCE


@pytest.mark.parametrize("kind", ["hunyuan_video", "hunyuan_video_i2v"])
def test_the_published_run_in_bfloat16(kind):
    """It was made under autocast. How far that is from float32 is how far another way of rounding may be from it."""
    this = published(kind)
    autocast = this.tensors["latents_autocast"]
    spread = relative(autocast, this.tensors["latents_bf16"])
    model, detail = this.load()
    model.set_model_compute_dtype(torch.bfloat16)
    node, told = dcm_node("DCMApplyExperts"), []
    model.model.diffusion_model.guidance_in.register_forward_pre_hook(lambda module, given: told.append(given[0]))
    distances = {}
    for name in ("host", "as published"):
        as_published = node.execute(model, detail, bf16_timestep=name == "as published")[0]
        distances[name] = relative(this.latents(as_published), autocast)
    embedded = {value: timestep_embedding(torch.tensor([value]), 256, time_factor=1.0).bfloat16() for value in VALUES}
    assert len(told) == 8 and told[0].dtype == torch.bfloat16
    assert all(torch.equal(each, embedded[6016.0]) for each in told[:4])
    assert all(torch.equal(each, embedded[6000.0]) for each in told[4:])
    print(f"{kind}: spread {spread:.2g}, {distances}")
    assert distances["as published"] <= 1.5 * spread < distances["host"]
    told.clear()
    baked = dcm_node("DCMBake").execute(as_published)[:2]
    this.latents(baked[0], low_noise_model=baked[1])
    assert all(torch.equal(each, embedded[6000.0]) for each in told) and told
    told.clear()
    this.latents(node.execute(as_published, detail)[0])
    assert all(torch.equal(each, embedded[6016.0]) for each in told) and told, "it is gone with the experts"


def test_where_the_hosts_way_is_the_published_one_nothing_changes():
    this = published("wan")
    assert relative(this.latents(applied("wan", bf16_timestep=True)[0]), this.tensors["latents"]) <= TOLERANCE


# --- the same comparison on weights or runs that are wrong in one thing ---------------------------------------------


def scale_of_adapters_is_one(state):
    """Nothing in a released file says that it is 2."""
    return {name: 0.5 * tensor for name, tensor in state.items() if ".lora_B." in name}


def adapters_off(where: str):
    return lambda state: {
        name: torch.zeros_like(tensor) for name, tensor in state.items() if ".lora_B." in name and where in name
    }


def twin_is_its_original(where: str):
    return lambda state: {name: state[name.replace("_lora.", ".", 1)] for name in state if name.startswith(where)}


def halves_in_the_other_order(layer: str):
    return lambda state: {name: torch.cat(state[name].chunk(2)[::-1]) for name in (f"{layer}.weight", f"{layer}.bias")}


def rotated(*layers: str):
    """The weights of each layer in the place of the next, as a wrong order of fused rows would have it."""

    def change(state):
        changed = {}
        for name in state:
            for layer, following in zip(layers, layers[1:] + layers[:1], strict=True):
                if f".{layer}." in name:
                    changed[name.replace(f".{layer}.", f".{following}.")] = state[name]
        return changed

    return change


def zeroed(where: str):
    return lambda state: {name: 0 * tensor for name, tensor in state.items() if where in name}


WRONG_WEIGHTS = {
    "wan": {
        "LoRA scale 1 instead of 2": scale_of_adapters_is_one,
        "adapters of self-attention removed": adapters_off("attn1"),
        "adapters of cross-attention removed": adapters_off("attn2"),
        "text twin removed": twin_is_its_original("condition_embedder_lora.text_embedder"),
        "time twins removed": twin_is_its_original("condition_embedder_lora.time"),
        "output twin removed": twin_is_its_original("proj_out_lora"),
        "modulation of the blocks removed": zeroed("blocks.0.scale_shift_table"),
        "adapters of q and k exchanged": rotated("to_q.lora_A.lora1", "to_k.lora_A.lora1"),
    },
    "hunyuan_video": {
        "LoRA scale 1 instead of 2": scale_of_adapters_is_one,
        "refiner adapter removed": adapters_off("token_refiner"),
        "adapters of single blocks removed": adapters_off("single_transformer_blocks"),
        "time twin removed": twin_is_its_original("time_text_embed_lora.timestep"),
        "guidance twin removed": twin_is_its_original("time_text_embed_lora.guidance"),
        "pooled text twin removed": twin_is_its_original("time_text_embed_lora.text"),
        "output twin removed": twin_is_its_original("proj_out_lora"),
        "halves of the final layer not swapped": halves_in_the_other_order("norm_out.linear"),
        "halves of the final layer's twin not swapped": halves_in_the_other_order("norm_out_lora.linear"),
        "fused rows k, q, v": rotated("to_q", "to_k"),
        "fused rows of the adapters v, q, k": rotated("to_q.lora_B.lora1", "to_k.lora_B.lora1", "to_v.lora_B.lora1"),
    },
    "wan_i2v": {"image twin removed": twin_is_its_original("condition_embedder_lora.image_embedder")},
}


@pytest.mark.parametrize(("kind", "wrong"), [(kind, wrong) for kind, table in WRONG_WEIGHTS.items() for wrong in table])
def test_weights_that_are_wrong_in_one_thing_are_noticed(kind, wrong):
    this = published(kind)
    place = folder() / kind
    state = load_file(place / "released" / "diffusion_pytorch_model.safetensors")
    changed = WRONG_WEIGHTS[kind][wrong](state)
    assert changed and changed.keys() <= state.keys()
    whole = {name: tensor.clone() for name, tensor in (state | changed).items()}
    save_file(whole, place / "wrong.safetensors")
    distance = relative(this.latents(applied(kind, "wrong.safetensors")[0]), this.tensors["latents"])
    print(f"{kind}, {wrong}: {distance:.2g}")
    assert distance > NOTICED


@pytest.mark.parametrize("kind", ["wan", "hunyuan_video"])
def test_a_switch_one_step_late_is_noticed(kind):
    this = published(kind)
    sigmas = dcm_node("DCMSigmas").execute(applied(kind)[0], STEPS[kind], preset="official")[0]
    late = applied(kind, kappa=0.93)[0]
    assert relative(this.latents(late, sigmas), this.tensors["latents"]) > NOTICED


def test_text_that_is_not_cut_to_its_tokens_is_noticed():
    this = published("hunyuan_video")
    model = applied("hunyuan_video")[0]
    assert relative(this.latents(model, text="padded_text"), this.tensors["latents"]) > NOTICED
