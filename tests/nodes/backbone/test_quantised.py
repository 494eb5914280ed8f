"""Backbones in every way that the host quantises: with experts, in a pair, baked, inspected and converted.

The right value is always the same run over the weights that the quantised ones stand for.
"""

import importlib.util
import json

import comfy.sd
import folder_paths
import pytest
import torch
from dcm_pack.dcm_core.backbone.file import BackboneFile
from dcm_pack.dcm_core.convert.command import main
from dcm_pack.dcm_core.files.format import tensor_bytes
from harness import tiny
from harness.pairs import second, stock
from harness.quantised import FORMATS, Quantised, quantised
from harness.worlds import dcm_node, relative, world
from safetensors.torch import load_file, save_file

KNOWN = importlib.util.find_spec("comfy.quant_ops") is not None
reads_formats = pytest.mark.skipif(not KNOWN, reason="this host reads no quantised layers")
FAMILIES = ("wan", "hunyuan_video")

# How far a run may be from the one over the weights that are meant. On a CPU fp8, mxfp8 and nvfp4 are computed from the
# weights alone; the others round what goes into a layer too: to 8 bits, w4a4 to 4. Two files of the same tensors need
# not give the same bits: sums begin where the tensors lie in memory, which the length of a header moves.
RUN = dict.fromkeys(FORMATS, 0.02) | dict.fromkeys(("fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4"), 1e-5)
RUN["w4a4_convrot"] = 0.15
# With an expert in its weights, which are rounded anew.
BAKED = {
    "fp8_e4m3": 0.06,
    "fp8_e5m2": 0.12,
    "mxfp8": 0.06,
    "nvfp4": 0.27,
    "int8": 0.03,
    "int8_rows": 0.03,
    "int8_convrot": 0.03,
    "w4a4_convrot": 0.3,
    "w4a8": 0.15,
}


def load(name: str):
    folder_paths.filename_list_cache.clear()
    return dcm_node("DCMLoadBackbone").execute(name, "default")[0]


def loaded(folder, this: Quantised):
    save_file(this.with_confs, folder / "a.safetensors")
    return load("a.safetensors")


def meant(this: Quantised):
    """A MODEL of the weights that the quantised ones stand for, by the stock loader."""
    return comfy.sd.load_diffusion_model_state_dict({name: tensor.clone() for name, tensor in this.plain.items()})


def over(network_of: str, kind: str) -> Quantised:
    return quantised(world(network_of).network, FORMATS[kind])


@reads_formats
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_quantised_backbone_runs_with_a_detail_expert(models, family, kind):
    this, packed = world(family), over(family, kind)
    model, plain = loaded(models, packed), meant(packed)
    before, expected = this.sampled(model), this.sampled(plain)
    assert relative(before, expected) <= RUN[kind]
    apply = dcm_node("DCMApplyExperts").execute
    (applied, info), (reference, same) = apply(model, this.detail).args, apply(plain, this.detail).args
    assert info == same, "no warning that the plain backbone does not get"
    with_detail = this.sampled(reference)
    assert relative(this.sampled(applied), with_detail) <= RUN[kind] < relative(expected, with_detail) / 1.5
    assert torch.equal(this.sampled(model), before), "nothing of the expert is left"


@reads_formats
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_backbone_takes_both_experts_and_is_baked(models, family, kind):
    this, packed = world(family), over(family, kind)
    model, plain = loaded(models, packed), meant(packed)
    before, expected = this.sampled(model), this.sampled(this.applied(plain))
    assert relative(this.sampled(this.applied(model)), expected) <= BAKED[kind]
    assert relative(this.in_two_runs(*this.baked(this.applied(model))), expected) <= BAKED[kind]
    assert torch.equal(this.sampled(model), before), "nothing of the experts is left"


@reads_formats
@pytest.mark.parametrize("kind", FORMATS)
def test_two_quantised_backbones_run_as_a_pair(models, kind):
    packed = over("wan", kind), quantised(second().network, FORMATS[kind])
    (high, low), plain = (loaded(models, each) for each in packed), [meant(each) for each in packed]
    result, expected = world("wan").sampled(high, low_noise_model=low), stock(*plain)
    assert relative(result, expected) <= RUN[kind] + 1e-4 < relative(stock(*reversed(plain)), expected)


@reads_formats
@pytest.mark.parametrize("kind", FORMATS)
def test_the_header_says_as_much_as_tensors_do(models, kind):
    this, packed = world("wan"), over("wan", kind)
    expected = this.sampled(loaded(models, packed))
    save_file(packed.tensors, models / "header.safetensors", packed.metadata)
    assert relative(this.sampled(load("header.safetensors")), expected) <= RUN[kind]
    prefixed = quantised(this.network, FORMATS[kind], "_orig_mod.")
    save_file(prefixed.tensors, models / "prefixed.safetensors", prefixed.metadata)
    assert relative(this.sampled(load("prefixed.safetensors")), expected) <= RUN[kind]


@reads_formats
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_files_are_inspected_and_written_for_comfyui_alone(models, capsys, monkeypatch, family, kind):
    monkeypatch.chdir(models)
    this, packed = world(family), over(family, kind)
    expected = this.sampled(loaded(models, packed))
    save_file(packed.plain, "plain.safetensors")
    assert main(["inspect", "a.safetensors", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["quantised"] == [FORMATS[kind].name] and said["scaled"]
    with BackboneFile.open("plain.safetensors") as plain, BackboneFile.open("a.safetensors") as file:
        assert file.fingerprint == plain.fingerprint and said["parameters"] == plain.layout.parameters
    assert main("to-comfy a.safetensors copy.safetensors".split()) == 0
    assert main("export a.safetensors whole.safetensors --semantic whole".split()) == 0
    for name in ("copy", "whole"):
        assert relative(this.sampled(load(f"{name}.safetensors")), expected) <= RUN[kind]
    copy = load_file("copy.safetensors")
    assert copy.keys() == packed.with_confs.keys()
    assert all(tensor_bytes(copy[name]) == tensor_bytes(tensor) for name, tensor in packed.with_confs.items())
    capsys.readouterr()
    for command in (
        "to-diffusers a.safetensors x.safetensors",
        "to-comfy a.safetensors x.safetensors --dtype bf16",
        "export a.safetensors x.safetensors --semantic difference --base plain.safetensors",
        "export plain.safetensors x.safetensors --semantic difference --base a.safetensors",
    ):
        assert main(command.split()) == 1
        assert "quantised" in capsys.readouterr().err and not (models / "x.safetensors").exists()


@pytest.mark.parametrize("name", sorted({each.name for each in FORMATS.values()}))
@pytest.mark.parametrize("in_header", [False, True])
def test_formats_that_this_host_does_not_know_are_refused_by_name(models, name, in_header):
    """Those of newer versions: on 0.3.64 all."""
    name = f"{name}_of_tomorrow" if KNOWN else name
    state = {key: tensor.clone() for key, tensor in world("wan").network.state_dict().items()}
    layer = "blocks.0.self_attn.q"
    state[f"{layer}.weight"] = torch.ones(128, 64, dtype=torch.uint8)
    state |= {f"{layer}.weight_scale": torch.ones(128, 8), f"{layer}.weight_scale_2": torch.ones(())}
    this = Quantised(state, {layer: {"format": name}}, {})
    if in_header:
        save_file(this.tensors, models / "a.safetensors", this.metadata)
    else:
        save_file(this.with_confs, models / "a.safetensors")
    with pytest.raises(ValueError, match=f"a.safetensors: .*quantised as {name}, .*Update ComfyUI, or take the bf16"):
        load("a.safetensors")
