"""The key maps against the host's own classes: the same names, and weights that its loader takes as they are."""

from functools import partial

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from harness import tiny
from harness.random_weights import randomise


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
    from dcm_pack.dcm_core.keymaps import keymap

    family, model = network
    state, table = model.state_dict(), keymap(family)
    assert not table.missing(state)
    back = table.state_to_comfy(table.state_to_diffusers(state))
    # HunyuanVideo's norms have two names; ours is the one that every host reads.
    host = {
        name.replace("_norm.weight", "_norm.scale") if family == "hunyuan_video" else name for name in state
    }
    assert back.keys() == host


def test_the_host_loads_what_came_from_diffusers(network):
    from dcm_pack.dcm_core.keymaps import keymap

    family, model = network
    state, table = model.state_dict(), keymap(family)
    converted = table.state_to_comfy(table.state_to_diffusers(state))
    loaded = comfy.sd.load_diffusion_model_state_dict(converted).model.diffusion_model
    assert type(loaded) is type(model)
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
