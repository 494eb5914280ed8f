"""One backbone in every layout it comes in: DCMLoadBackbone makes the same MODEL of each."""

import os
from pathlib import Path

import folder_paths
import pytest
import torch
from harness.hosts import ROOT
from harness.published import folder, published
from harness.worlds import dcm_node, world
from safetensors.torch import load_file, save_file

import nodes

KINDS = ["wan", "hunyuan_video", "wan_i2v", "hunyuan_video_i2v"]


def load(name: str, weight_dtype: str = "default"):
    return dcm_node("DCMLoadBackbone").execute(name, weight_dtype).args


def names() -> list[str]:
    folder_paths.filename_list_cache.clear()
    return dcm_node("DCMLoadBackbone").define_schema().inputs[0].options


def weights(model) -> dict[str, torch.Tensor]:
    return model.model.diffusion_model.state_dict()


def same_weights(one, other) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name].float(), right[name].float()) for name in left
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusers_folder_and_a_bundle_hold_the_same_backbone(kind, caplog):
    caplog.set_level("INFO", "DCM")
    released, expert = published(kind).load()
    assert expert is not None
    assert "released DCM bundle" in caplog.text and "SemE above sigma" in caplog.text
    assert f"{kind}/diffusers" in names() and not [name for name in names() if "-of-" in name]
    model, none = published(kind).load("diffusers")
    assert none is None and "no detail expert in it" in caplog.text
    assert same_weights(model, released)
    with pytest.raises(ValueError, match="no detail expert here: connect one from DCM Load Expert"):
        dcm_node("DCMApplyExperts").execute(model, none)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_dtype", ["default", "fp8_e4m3fn"])
def test_what_stock_nodes_load_from_a_comfyui_file(models, kind, weight_dtype):
    """Of weights that are fused or swapped on the way too, in the dtype that was asked for."""
    released = published(kind).load(weight_dtype=weight_dtype)[0]
    original = weights(published(kind).load()[0])
    folder_paths.folder_names_and_paths["diffusion_models"][0][:] = [str(models)]
    save_file(original, models / "comfy.safetensors")
    save_file(
        {f"model.diffusion_model.{name}": tensor for name, tensor in original.items()},
        models / "prefix.safetensors",
    )
    stock = nodes.UNETLoader().load_unet("comfy.safetensors", weight_dtype)[0]
    linear = next(name for name in original if name.endswith("mlp.0.weight") or name.endswith("ffn.0.weight"))
    assert weights(stock)[linear].dtype == (torch.float32 if weight_dtype == "default" else torch.float8_e4m3fn)
    assert same_weights(released, stock)
    for name in ("comfy.safetensors", "prefix.safetensors"):
        model, expert = load(name, weight_dtype)
        assert expert is None and same_weights(model, stock)


def test_half_precision_files_of_a_bundle(models):
    """As HunyuanVideo's was released. Here the host computes such files in float32."""
    this = published("hunyuan_video")
    state = load_file(folder() / "hunyuan_video/released/diffusion_pytorch_model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in state.items()}, models / "bf16.safetensors")
    folder_paths.folder_names_and_paths["diffusion_models"][0][:] = [str(models)]
    model, expert = load("bf16.safetensors")
    model = dcm_node("DCMApplyExperts").execute(model, expert)[0]
    latents = this.latents(model)
    assert 1e-5 < (latents - this.tensors["latents"]).norm() / latents.norm() < 0.05


def test_no_layer_is_held_twice_while_a_backbone_is_loaded(monkeypatch):
    """Fused layers are written into the network part by part; before, they take room in no memory."""
    from dcm_pack.nodes.backbone import load as backbone_file

    given = {}
    stock = backbone_file.comfy.sd.load_diffusion_model_state_dict

    def recorded(state, **options):
        given.update(state)
        return stock(state, **options)

    def forbidden(*_):
        raise AssertionError("a fused layer was put together in memory")

    monkeypatch.setattr(backbone_file.comfy.sd, "load_diffusion_model_state_dict", recorded)
    monkeypatch.setattr(torch, "cat", forbidden)
    model, _ = published("hunyuan_video").load("diffusers")
    assert "double_blocks.0.img_attn.qkv.weight" in given
    parameter = weights(model)["double_blocks.0.img_attn.qkv.weight"]
    assert parameter.data_ptr() != given["double_blocks.0.img_attn.qkv.weight"].data_ptr()


def test_scaled_fp8_as_the_stock_loader_takes_it(models):
    this = world("wan")
    linear = {name for name, module in this.network.named_modules() if isinstance(module, torch.nn.Linear)}
    stored = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in this.network.state_dict().items():
        layer, _, key = name.rpartition(".")
        scaled = layer in linear and key == "weight"
        scale = tensor.abs().max() / 448 if scaled else torch.tensor(1.0)
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn) if scaled else tensor.clone()
        if scaled:
            stored[f"{layer}.scale_weight"] = scale
    save_file(stored, models / "scaled.safetensors")
    stock = nodes.UNETLoader().load_unet("scaled.safetensors", "default")[0]
    assert torch.equal(this.sampled(load("scaled.safetensors")[0]), this.sampled(stock))


def test_a_backbone_loaded_again_for_another_gpu():
    """Newer hosts do so with the function and the arguments that the loader leaves on the MODEL."""
    model = published("hunyuan_video").load("diffusers", "fp8_e4m3fn")[0]
    make, arguments = model.cached_patcher_init
    assert same_weights(make(*arguments), model)


# --- files that are no backbone -------------------------------------------------------------------------------------


def test_a_bundle_in_the_node_for_expert_files(monkeypatch):
    _, extensions = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder())], extensions))
    folder_paths.filename_list_cache.clear()
    with pytest.raises(ValueError, match="released.*DCM Load Backbone"):
        dcm_node("DCMLoadExpert").execute("wan/released/diffusion_pytorch_model.safetensors")


def test_a_bundle_whose_adapter_was_taken_off(models):
    reference = Path(os.environ["DCM_TEST_REFERENCE"])
    bundle = load_file(reference / "wan/released/diffusion_pytorch_model.safetensors")
    save_file({name: t for name, t in bundle.items() if ".lora_" not in name}, models / "off.safetensors")
    with pytest.raises(ValueError, match="no low-rank pairs, so it holds no detail expert"):
        load("off.safetensors")


@pytest.mark.parametrize("kind", ["wan", "hunyuan_video"])
def test_a_bundle_in_the_stock_loader(kind):
    """Its words, which are not ours to change, and the pages that answer them."""
    folder()
    with pytest.raises(RuntimeError, match="Could not detect model type"):
        nodes.UNETLoader().load_unet(f"{kind}/released/diffusion_pytorch_model.safetensors", "default")
    for page in ("docs/real_weights.md", "web/docs/DCMLoadBackbone.md", "web/docs/DCMLoadBackbone/zh.md"):
        assert "Could not detect model type" in (ROOT / page).read_text("utf-8")


def test_a_shard_that_is_missing(models):
    part = models / "wan"
    part.mkdir()
    save_file({"a": torch.zeros(2)}, part / "diffusion_pytorch_model-00002-of-00003.safetensors")
    assert "wan" in names()
    with pytest.raises(ValueError, match="00001-of-00003"):
        load("wan")


def test_a_file_that_is_cut_off(models):
    (models / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="not a whole safetensors file.*Download"):
        load("cut.safetensors")


def test_a_file_that_is_no_backbone(models):
    save_file({"decoder.conv_in.weight": torch.zeros(2)}, models / "vae.safetensors")
    with pytest.raises(ValueError, match="looks like a VAE. Put it into models/vae and load it with Load VAE"):
        load("vae.safetensors")


def test_an_expert_in_the_place_of_a_backbone(models):
    from dcm_pack.dcm_core.expert.file import save_expert

    save_expert(models / "expert.safetensors", world("wan").detail)
    with pytest.raises(ValueError, match="DCM Load Expert"):
        load("expert.safetensors")


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("wan", "wan_i2v", r"Wan 2.1 I2V of width 256 with 2 blocks\), this one is Wan 2.1 T2V of width 256"),
        ("wan", "hunyuan_video", "for the hunyuan_video family, the backbone is wan"),
        ("hunyuan_video", "wan", "for the wan family, the backbone is hunyuan_video"),
    ],
)
def test_an_expert_of_another_backbone(kind, other, message):
    model, expert = published(kind).load()[0], published(other).load()[1]
    with pytest.raises(ValueError, match=f"(?s){message}.*Choose an expert made for this backbone"):
        dcm_node("DCMApplyExperts").execute(model, expert)


def test_a_semantic_expert_over_a_bundle_that_is_one():
    from dcm_pack.nodes.backbone.model import declare_semantic

    this = world("wan")
    model = this.model()
    declare_semantic(model)
    _, info = dcm_node("DCMApplyExperts").execute(model, this.detail, this.semantic)
    assert "this MODEL is a semantic expert itself" in info
