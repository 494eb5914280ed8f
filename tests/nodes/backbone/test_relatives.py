"""Other models over a family's network, as MODELs of any loader: refused by name, or run with one warning."""

import importlib
from types import SimpleNamespace

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model import VaceWanModel
from dcm_pack.dcm_core.backbone.file import BackboneFile
from dcm_pack.dcm_core.families.wan import SIZES
from dcm_pack.dcm_core.files.format import TensorInfo
from dcm_pack.nodes.backbone.load import load_backbone
from dcm_pack.nodes.backbone.model import family_of, remarks_on
from harness import tiny
from harness.random_weights import randomise
from harness.worlds import dcm_node, empty_latent, world
from safetensors.torch import save_file

VACE = "Warning: this backbone is Wan VACE, which DCM has not been tried on"


def hunyuan_video_1_5() -> dict[str, torch.Tensor]:
    """A tiny HunyuanVideo with the channels of 1.5: 65 in, 32 out."""
    state = dict(randomise(tiny.hunyuan_video(), 1).state_dict())
    width = state["img_in.proj.weight"].shape[0]
    state["img_in.proj.weight"] = torch.randn(width, 65, 1, 2, 2)
    state["final_layer.linear.weight"] = torch.randn(32 * 4, width)
    state["final_layer.linear.bias"] = torch.randn(32 * 4)
    return state


def vace() -> dict[str, torch.Tensor]:
    sizes = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "vace_layers": 1, "vace_in_dim": 96}
    network = VaceWanModel(**sizes, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    network = randomise(network, seed=5).requires_grad_(False)
    network.load_state_dict(world("wan").network.state_dict(), strict=False)
    return dict(network.state_dict())


def stock(state: dict[str, torch.Tensor]):
    return comfy.sd.load_diffusion_model_state_dict({name: tensor.clone() for name, tensor in state.items()})


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "wan_i2v"])
def test_a_familys_own_model_is_no_relative(family):
    state = randomise(tiny.wan_i2v(), 1).state_dict() if family == "wan_i2v" else world(family).network.state_dict()
    assert remarks_on(stock(state)) == []


@pytest.mark.parametrize("scale", ["scale_weight"])
def test_a_quantised_model_is_no_relative(scale):
    state = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in world("wan").network.state_dict().items():
        state[name] = tensor
        if name.startswith("blocks.") and name.endswith(("q.weight", "ffn.0.weight")):
            state[name] = tensor.to(torch.float8_e4m3fn)
            state[name.removesuffix("weight") + scale] = torch.tensor(1.5)
            state[name.removesuffix("weight") + "scale_input"] = torch.tensor(2.0)
    assert remarks_on(stock(state)) == []


def test_a_model_of_other_latents_is_refused_by_every_node():
    this, model = world("hunyuan_video"), stock(hunyuan_video_1_5())
    says = "HunyuanVideo 1.5, another model than HunyuanVideo: its latents are others"
    nodes = [
        lambda: family_of(model),
        lambda: dcm_node("DCMSigmas").execute(model, 4),
        lambda: dcm_node("DCMApplyExperts").execute(model, this.detail, this.semantic),
        lambda: dcm_node("DCMKSampler").execute(model, 0, 4, 1.0, this.text(), this.text(), empty_latent()),
        lambda: dcm_node("DCMGuider").execute(model, this.text(), this.text(), 1.0),
    ]
    for node in nodes:
        with pytest.raises(ValueError, match=says):
            node()


def test_a_file_of_other_latents_is_refused_by_name(models):
    save_file(hunyuan_video_1_5(), models / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: this is HunyuanVideo 1.5, another model"):
        dcm_node("DCMLoadBackbone").execute("a.safetensors", "default")


def test_vace_of_a_stock_loader_runs_with_one_warning():
    this, model = world("wan"), stock(vace())
    assert dcm_node("DCMSigmas").execute(model, 4)[1].count(VACE) == 1
    model, info = dcm_node("DCMApplyExperts").execute(model, this.detail, this.semantic)
    assert info.count(VACE) == 1
    assert "VACE" not in dcm_node("DCMSigmas").execute(model, 4)[1]


def test_vace_of_a_file_is_called_by_its_name_and_warned_of_once(models, caplog):
    caplog.set_level("INFO", "DCM")
    this = world("wan")
    save_file(vace(), models / "a.safetensors")
    model = dcm_node("DCMLoadBackbone").execute("a.safetensors", "default")[0]
    assert "a.safetensors: Wan VACE of width 128 with 2 blocks" in caplog.text
    assert caplog.text.count(VACE.removeprefix("Warning: ")) == 1
    assert "VACE" not in dcm_node("DCMApplyExperts").execute(model, this.detail, this.semantic)[1]
    assert "VACE" not in dcm_node("DCMSigmas").execute(model, 4)[1]


def network_of(module: str, name: str, **sizes):
    kind = getattr(importlib.import_module(f"comfy.ldm.wan.{module}"), name)
    sizes |= {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 5, "dtype": torch.float32, "device": "meta"}
    return kind(**sizes, operations=comfy.ops.disable_weight_init)


RELATIVES = {
    "Wan VACE": ("model", "VaceWanModel", {"vace_layers": 3, "vace_in_dim": 96}),
    "Wan Camera": ("model", "CameraWanModel", {"in_dim": 36}),
    "Wan S2V": ("model", "WanModel_S2V", {}),
    "Wan HuMo": ("model", "HumoWanModel", {"in_dim": 36}),
    "Wan Animate": ("model_animate", "AnimateWanModel", {"in_dim": 36}),
    "Wan SCAIL": ("model", "SCAILWanModel", {}),
    "Wan SCAIL 2": ("model", "SCAIL2WanModel", {}),
    "WanDancer": ("model_wandancer", "WanDancerModel", {"in_dim": 36}),
    "Wan Fun Control": ("model", "WanModel", {"in_dim": 48, "in_dim_ref_conv": 16}),
}


@pytest.mark.parametrize("title", RELATIVES)
def test_the_hosts_own_relatives_are_whole(title):
    module, name, sizes = RELATIVES[title]
    try:
        network = network_of(module, name, **sizes)
    except (ImportError, AttributeError, TypeError):
        pytest.skip(f"this ComfyUI has no {title}")
    infos = {key: TensorInfo("F32", tuple(tensor.shape)) for key, tensor in network.state_dict().items()}
    layout = BackboneFile(SimpleNamespace(infos=infos, metadata={}, headers=[{}])).layout
    assert layout.variant.startswith(f"{title} of width 128 with 5 blocks") and layout.relative.signs


@pytest.mark.parametrize(
    "lost",
    ["head.head.weight", "patch_embedding.weight", "blocks.0.ffn.0.", "vace_blocks.", "vace_blocks.0.norm3.bias"],
)
def test_a_relative_that_is_not_whole_is_refused_in_a_clear_sentence(models, lost):
    save_file({name: tensor for name, tensor in vace().items() if not name.startswith(lost)}, models / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors.*(are missing|lacks).*Download it again"):
        dcm_node("DCMLoadBackbone").execute("a.safetensors", "default")


@pytest.mark.parametrize("key", ["head.head.weight", "vace_patch_embedding.weight"])
def test_shapes_that_no_network_can_be_made_of_are_refused_in_a_clear_sentence(models, key):
    save_file(vace() | {key: torch.ones(())}, models / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: ComfyUI can make no network of these tensors.*Download"):
        dcm_node("DCMLoadBackbone").execute("a.safetensors", "default")


def test_fewer_blocks_than_the_published_size_of_this_width_are_said_once(models, monkeypatch):
    monkeypatch.setitem(SIZES.names, (128, 3), "9B")
    says = "this backbone is as wide as the 9B one and has 2 blocks instead of 3: unless it was pruned"
    save_file(world("wan").network.state_dict(), models / "a.safetensors")
    assert any(says in warning for warning in load_backbone(str(models / "a.safetensors")).warnings)
    model = stock(world("wan").network.state_dict())
    assert says in dcm_node("DCMSigmas").execute(model, 4)[1]
    model, info = dcm_node("DCMApplyExperts").execute(model, world("wan").detail, world("wan").semantic)
    assert info.count(says) == 1 and says not in dcm_node("DCMSigmas").execute(model, 4)[1]


def test_a_network_compiled_block_by_block_is_no_relative():
    model = world("wan").model()
    blocks = model.model.diffusion_model.blocks
    for number, block in enumerate(blocks):
        blocks[number] = torch.nn.Module()
        blocks[number]._orig_mod = block
    assert any("_orig_mod" in name for name, _ in model.model.diffusion_model.named_parameters())
    assert remarks_on(model) == []
