"""The detail expert's file is an ordinary LoRA too: stock loader and two stock samplers make the same video."""

from dataclasses import replace

import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras import nodes_custom_sampler
from harness.worlds import assert_same, dcm_node, relative, world

import nodes


@pytest.fixture
def loras(tmp_path, monkeypatch):
    paths, extensions = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path), *paths], extensions))
    return tmp_path


def stock_sigmas(model):
    """Typed into the stock node by hand where the host has it, as five decimals show them."""
    sigmas = dcm_node("DCMSigmas").execute(model, 4)[0]
    if not hasattr(nodes_custom_sampler, "ManualSigmas"):
        return sigmas
    typed = ", ".join(f"{sigma:.5f}" for sigma in sigmas.tolist())
    return nodes_custom_sampler.ManualSigmas.execute(typed)[0]


@pytest.mark.parametrize("family", ["wan", "hunyuan_video"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_two_stock_samplers_with_the_file_as_a_lora(family, strength, loras):
    from dcm_pack.dcm_core.expert.file import save_expert

    this = world(family)
    save_expert(loras / "detail.safetensors", this.detail)
    semantic = this.applied(detail_strength=0.0)
    (detail,) = nodes.LoraLoaderModelOnly().load_lora_model_only(semantic, "detail.safetensors", strength)
    sigmas = stock_sigmas(semantic)
    switch = this.schedule.split(sigmas)[0]
    high, low = nodes_custom_sampler.SplitSigmas().get_sigmas(sigmas, switch)
    first = this.custom_sampled(semantic, high)
    stock = this.custom_sampled(detail, low, latent={"samples": first}, add_noise=False)
    result = this.sampled(this.applied(detail_strength=strength))
    alone = this.without_detail()
    if strength == 1.0:
        assert_same(result, stock, alone, 1e-3)
    else:
        assert relative(result, stock) <= 1e-3
        assert relative(alone, stock) >= 5e-2


def test_the_file_loads_by_its_name_from_both_folders(loras, tmp_path, caplog):
    from dcm_pack.dcm_core.expert.file import save_expert

    this = world("wan")
    save_expert(loras / "detail.safetensors", this.detail)
    load = dcm_node("DCMLoadExpert")
    assert "detail.safetensors" in load.define_schema().inputs[0].options
    caplog.set_level("INFO", "DCM")
    expert = load.execute("detail.safetensors")[0]
    assert "detail.safetensors: detail expert for tiny_wan (wan); SemE above sigma 0.9765" in caplog.text
    assert "4 steps: SemE 2 steps 1.000 0.989 | DetE 2 steps 0.975 0.905" in caplog.text
    model = dcm_node("DCMApplyExperts").execute(this.model(), expert, this.semantic)[0]
    assert torch.equal(this.sampled(model), this.sampled(this.applied()))
    first = load.fingerprint_inputs("detail.safetensors")
    save_expert(loras / "detail.safetensors", this.semantic)
    assert load.fingerprint_inputs("detail.safetensors") != first


def test_a_name_in_both_folders_is_the_one_in_models_dcm(loras, tmp_path, monkeypatch):
    from dcm_pack.dcm_core.expert.file import save_expert

    this, own = world("wan"), tmp_path / "own"
    own.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "dcm", ([str(own)], {".safetensors"}))
    save_expert(loras / "same.safetensors", this.detail)
    save_expert(own / "same.safetensors", this.semantic)
    folder_paths.filename_list_cache.clear()
    load = dcm_node("DCMLoadExpert")
    assert load.define_schema().inputs[0].options.count("same.safetensors") == 1
    assert load.execute("same.safetensors")[0].metadata.expert == "semantic"
    (own / "same.safetensors").unlink()
    assert load.execute("same.safetensors")[0].metadata.expert == "detail"


def test_folders_of_extra_model_paths_are_kept(monkeypatch):
    from dcm_pack.nodes.ui import folders

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "dcm", (["/elsewhere"], set()))
    folders.register()
    folders.register()
    paths, extensions = folder_paths.folder_names_and_paths["dcm"]
    assert paths[0] == "/elsewhere" and len(paths) == 2
    assert extensions == {".safetensors"}


def test_pairs_of_q_k_and_v_for_the_stock_loader(loras):
    """In one file of either form: DCM runs both alike, and the stock loader takes the block-diagonal one."""
    from dcm_pack.dcm_core.expert.file import load_expert, save_expert
    from dcm_pack.dcm_core.expert.layers import Expert, FusedLowRank

    this = world("hunyuan_video")
    generator = torch.Generator().manual_seed(4)
    layers = {}
    for name, module in this.network.named_modules():
        if name.endswith(("_attn.qkv", ".linear1")):
            rows, columns = module.weight.shape
            down, up = (
                torch.randn(12, columns, generator=generator),
                torch.randn(3 * columns, 4, generator=generator),
            )
            layers[name] = FusedLowRank(down / columns**0.5, 0.3 * up, 8.0, rows)
    assert any(name.startswith("txt_in.") for name in layers) and any("single" in name for name in layers)
    expert = Expert(replace(this.detail.metadata, alpha=8.0), layers)
    for compact in (False, True):
        save_expert(loras / f"{compact}.safetensors", expert, compact=compact)
    stock = nodes.LoraLoaderModelOnly().load_lora_model_only(this.model(), "False.safetensors", 1.0)[0]
    sigmas = torch.tensor([0.9, 0.5, 0.0])  # the detail expert's steps
    expected = this.custom_sampled(stock, sigmas)
    for compact in (False, True):
        read = load_expert(loras / f"{compact}.safetensors")
        assert all(isinstance(layer, FusedLowRank) for layer in read.layers.values())
        model = dcm_node("DCMApplyExperts").execute(this.model(), read)[0]
        assert_same(this.custom_sampled(model, sigmas), expected, this.custom_sampled(this.model(), sigmas), 1e-4)


def lora_over(model, *names: str):
    """The MODEL with a LoRA on these layers, as the stock loader makes it."""
    lora = {}
    for name in names:
        rows, columns = model.model.diffusion_model.get_submodule(name).weight.shape
        lora |= {
            f"diffusion_model.{name}.lora_A.weight": torch.ones(2, columns),
            f"diffusion_model.{name}.lora_B.weight": torch.ones(rows, 2),
        }
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def replacing(expert, name: str):
    from dcm_pack.dcm_core.expert.layers import Expert, Replacement

    layer = expert.layers[name]
    return Expert(expert.metadata, expert.layers | {name: Replacement(layer.weight, layer.bias)}, expert.parameters)


def test_the_info_line_counts_the_weights_that_carry_patches():
    this, apply = world("wan"), dcm_node("DCMApplyExperts").execute
    model = lora_over(this.model(), "time_embedding.0", "blocks.0.ffn.0")
    _, info = apply(model, this.detail, this.semantic)
    assert info.endswith("; 2 weights carry LoRA patches")
    model, info = apply(this.model(), this.detail, this.semantic)
    assert "LoRA" not in info
    assert "LoRA" not in apply(model, this.detail, this.semantic)[1], "the experts' own patches are no LoRA's"


@pytest.mark.parametrize("kind", ["semantic", "detail"])
def test_a_lora_on_a_layer_that_an_expert_replaces_is_said_with_the_layer(kind):
    this, apply = world("wan"), dcm_node("DCMApplyExperts").execute
    experts = {"detail": this.detail, "semantic": this.semantic}
    experts[kind] = replacing(experts[kind], "time_embedding.0")
    said = f"the {kind} expert has new weights for time_embedding.0, so what LoRAs change there is lost"
    both = experts["detail"], experts["semantic"]
    assert said in apply(lora_over(this.model(), "time_embedding.0"), *both)[1]
    assert "lost" not in apply(lora_over(this.model(), "blocks.0.ffn.0"), *both)[1]


def test_a_lora_that_comes_after_the_experts_is_said_by_the_run(caplog):
    this = world("wan")
    detail = replacing(this.detail, "time_embedding.0")
    model = dcm_node("DCMApplyExperts").execute(this.model(), detail, this.semantic)[0]
    texts = this.text(0), this.text(1)
    run = dcm_node("DCMKSampler").execute
    said = "the detail expert has new weights for time_embedding.0"
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    assert said not in run(model, 0, 4, 1.0, *texts, latent)[1]
    changed = lora_over(model, "time_embedding.0")
    assert said in run(changed, 0, 4, 1.0, *texts, latent)[1]
    caplog.clear()
    this.custom_sampled(changed, this.schedule.sigmas(4))
    assert said in caplog.text
