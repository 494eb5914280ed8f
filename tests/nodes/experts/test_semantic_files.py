"""Semantic experts as the converter writes them: a difference, or low-rank pairs with the biases beside them."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import pytest
import torch
from harness.worlds import World, assert_same, dcm_node, merge, relative, world
from safetensors.torch import save_file

FAMILIES = ["wan", "hunyuan_video"]
TOLERANCE = 1e-4
RANK = 6
FORMS = {"difference": None, "low-rank": RANK}


def with_matrices_of_low_rank(this: World) -> World:
    """Its semantic expert changes every matrix by a product of that rank, which a file can then hold exactly."""
    from dcm_pack.dcm_core.expert.layers import Difference

    generator = torch.Generator().manual_seed(7)

    def product(weight):
        rows, columns = weight.shape
        down = torch.randn(RANK, columns, generator=generator) / columns**0.5
        return 0.1 * torch.randn(rows, RANK, generator=generator) @ down

    layers = {
        name: Difference(product(layer.weight), layer.bias) if layer.weight.ndim == 2 else layer
        for name, layer in this.semantic.layers.items()
    }
    return replace(this, semantic=replace(this.semantic, layers=layers))


def through_a_file(this: World, form: str, folder: Path) -> World:
    """The world with its semantic expert as the converter exports it from two backbone files."""
    from dcm_pack.dcm_core.backbone.file import BackboneFile
    from dcm_pack.dcm_core.convert.semantic import export_change
    from dcm_pack.dcm_core.expert.file import load_expert

    save_file(this.network.state_dict(), folder / "base.safetensors")
    save_file(merge(this.network.state_dict(), this.semantic), folder / "semantic.safetensors")
    with (
        BackboneFile.open(folder / "semantic.safetensors") as semantic,
        BackboneFile.open(folder / "base.safetensors") as base,
    ):
        export_change(semantic, base, folder / "change.safetensors", FORMS[form])
    return replace(this, semantic=load_expert(folder / "change.safetensors"))


@pytest.fixture(params=FAMILIES)
def made(request):
    return with_matrices_of_low_rank(world(request.param))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_equals_merged_weights(made, form, strength, tmp_path):
    read = through_a_file(made, form, tmp_path)
    biases = {name for name in read.semantic.parameters if name.endswith(".bias")}
    assert bool(biases) is (form == "low-rank")
    model, info = dcm_node("DCMApplyExperts").execute(
        made.model(), made.detail, read.semantic, semantic_strength=strength
    )
    assert "Warning" not in info, "the file says which backbone it is for, and what the detail expert is for"
    semantic, detail = made.merged(), made.merged()
    semantic.load_state_dict(merge(semantic.state_dict(), made.semantic, strength))
    detail.load_state_dict(merge(semantic.state_dict(), made.detail))
    sigmas = made.schedule.sigmas(4)
    expected, alone = (made.truth(sigmas, semantic, network) for network in (detail, semantic))
    without = made.truth(sigmas, made.merged(), made.merged(made.detail))
    assert relative(without, expected) >= 100 * TOLERANCE, "the semantic expert does too little to be tested"
    process = model.model.process_latent_in
    assert_same(process(made.sampled(model)), expected, alone, TOLERANCE)
    assert_same(process(made.in_two_runs(*made.baked(model))), expected, alone, TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
def test_over_weights_in_fp8(made, form, tmp_path):
    """Every tensor of a layer stays in the format it is stored in, rounded as the experts of other nodes are."""
    read = through_a_file(made, form, tmp_path)
    few = {"dtype": torch.float8_e4m3fn}
    expected = made.sampled(made.applied(made.model(**few)))
    without = made.sampled(made.applied(made.model(**few), semantic_strength=0.0))
    assert relative(made.sampled(read.applied(made.model(**few))), expected) <= 1e-3
    assert relative(without, expected) >= 0.1


def test_baked_and_partly_loaded(made, tmp_path, monkeypatch):
    """The biases too, in layers that stay behind and are patched at every use."""
    read = through_a_file(made, "low-rank", tmp_path)
    expected = made.in_two_runs(*made.baked())
    load, behind = comfy.model_management.LoadedModel.model_load, []

    def load_partly(self, lowvram_model_memory=0, force_patch_weights=False):
        done = load(self, int(0.2 * self.model.model_size()), force_patch_weights)
        behind.append(self.model.model.lowvram_patch_counter)
        return done

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", load_partly)
    assert relative(made.in_two_runs(*read.baked()), expected) < TOLERANCE
    assert min(behind) > 0
