"""The key maps against the host's own classes: the same names, and weights that its loader takes as they are."""

from dataclasses import replace
from functools import partial

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from harness import tiny
from harness.random_weights import randomise
from harness.worlds import relative, world


def wan(**changes):
    sizes = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2} | changes
    return WanModel(**sizes, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)


NETWORKS = {
    "wan": wan,
    "wan i2v": partial(wan, model_type="i2v", in_dim=36),
    "wan flf2v": partial(wan, model_type="i2v", in_dim=36, flf_pos_embed_token_number=514),
    "wan 2.2 i2v": partial(wan, in_dim=36),
    "wan 2.2 5b": partial(wan, in_dim=48, out_dim=48),
    "hunyuan_video": tiny.hunyuan_video,
}
if "cogvideox" in tiny.FAMILIES:
    NETWORKS["cogvideox"] = tiny.cogvideox


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param.split()[0], randomise(NETWORKS[request.param](), seed=0)


def test_the_hosts_names_are_those_of_the_table(network):
    from dcm_pack.dcm_core.families.presets import find_family

    family, model = network
    state, table = model.state_dict(), find_family(family).keymap
    assert not table.missing(state)
    back = table.state_to_comfy(table.state_to_diffusers(state))
    # HunyuanVideo's norms have two names; ours is the one that every host reads.
    host = {name.replace("_norm.weight", "_norm.scale") if family == "hunyuan_video" else name for name in state}
    assert back.keys() == host


def test_the_host_loads_what_came_from_diffusers(network):
    from dcm_pack.dcm_core.families.presets import find_family

    family, model = network
    state, table = model.state_dict(), find_family(family).keymap
    converted = table.state_to_comfy(table.state_to_diffusers(state))
    loaded = comfy.sd.load_diffusion_model_state_dict(converted).model.diffusion_model
    assert type(loaded) is type(model)
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_a_semantic_expert_from_a_host_with_other_names():
    from dcm_pack.dcm_core.expert.host_names import in_host_names

    this = world("hunyuan_video")
    names = [respelled(name) for name in this.network.state_dict()]
    foreign = in_host_names(this.semantic, names)
    assert foreign is not this.semantic
    expected = this.sampled(this.applied())
    assert torch.equal(this.sampled(replace(this, semantic=foreign).applied()), expected)
    norms = [name for name in foreign.parameters if "_norm." in name]
    lost = {name: tensor for name, tensor in foreign.parameters.items() if name not in norms}
    without = replace(foreign, parameters=lost)
    assert relative(this.sampled(replace(this, semantic=without).applied()), expected) > 1e-3


def respelled(name: str) -> str:
    """The name that hosts of the other kind have for it."""
    for one, other in ((".scale", ".weight"), (".weight", ".scale")):
        if name.endswith(f"_norm{one}"):
            return name.removesuffix(one) + other
    return name
