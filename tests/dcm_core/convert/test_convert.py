"""Conversions as a library: what comes out is the same weights, read one tensor at a time."""

import contextlib
import json

import pytest
import torch
from harness.diffusers_models import MODELS, random_state, released
from safetensors.torch import load_file, save_file

from dcm_core.backbone.file import BackboneFile
from dcm_core.convert.backbone import convert_backbone
from dcm_core.convert.detail import export_bundle, export_detail
from dcm_core.convert.low_rank import decompose
from dcm_core.convert.semantic import export_change, export_whole
from dcm_core.errors import ExpertFileError, LayoutError
from dcm_core.expert.file import load_expert
from dcm_core.expert.layers import LowRank
from dcm_core.expert.merge import merged
from dcm_core.families.presets import find_family, preset
from dcm_core.files.format import read_header, tensor_bytes
from dcm_core.files.stream import TensorSource

# The norms of Wan's image embedding are kept as differences, so in float32 not to the last bit.
BUNDLES = [
    ("wan t2v", torch.float32),
    ("wan t2v", torch.bfloat16),
    ("wan i2v", torch.bfloat16),
    ("hunyuan_video t2v", torch.float32),
    ("hunyuan_video i2v", torch.bfloat16),
]
PAIRS = ["wan t2v", "hunyuan_video t2v", "cogvideox t2v"]


def differing(one, other):
    """Names of tensors that are not the same bytes in two state dicts (or that one lacks)."""
    shared = one.keys() & other.keys()
    changed = [name for name in shared if tensor_bytes(one[name]) != tensor_bytes(other[name])]
    return sorted((one.keys() ^ other.keys()) | set(changed))


def convert(path, target, to, **options):
    with BackboneFile.open(path) as backbone:
        convert_backbone(backbone, target, to, **options)
    return load_file(target)


@pytest.fixture
def pair(tmp_path, request):
    """A backbone, and a semantic expert that is no more than a little away from it, as files."""
    base = random_state(request.param)
    state = {name: tensor + 0.1 * random_state(request.param, seed=5)[name] for name, tensor in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(state, tmp_path / "semantic.safetensors")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(BackboneFile.open(tmp_path / f"{name}.safetensors")) for name in ("semantic", "base")
        ]


@pytest.mark.parametrize("name", MODELS)
def test_a_backbone_keeps_every_bit_there_and_back(tmp_path, name):
    state = random_state(name, dtype=torch.bfloat16)
    save_file(state, tmp_path / "diffusers.safetensors")
    comfy = convert(tmp_path / "diffusers.safetensors", tmp_path / "comfy.safetensors", "comfy")
    assert differing(comfy, state), "the layouts have different names"
    prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in comfy.items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    assert not differing(state, convert(tmp_path / "comfy.safetensors", tmp_path / "a.safetensors", "diffusers"))
    assert not differing(state, convert(tmp_path / "prefixed.safetensors", tmp_path / "b.safetensors", "diffusers"))
    assert not differing(comfy, convert(tmp_path / "prefixed.safetensors", tmp_path / "c.safetensors", "comfy"))


@pytest.mark.parametrize(("name", "dtype"), BUNDLES, ids=str)
def test_a_bundle_keeps_every_bit_through_two_files_and_back(tmp_path, name, dtype):
    bundle = released(name, dtype=dtype)
    save_file(bundle, tmp_path / "bundle.safetensors")
    with BackboneFile.open(tmp_path / "bundle.safetensors") as backbone:
        export_whole(backbone, tmp_path / "semantic.safetensors")
        export_detail(backbone, tmp_path / "detail.safetensors", exact=True)
    with BackboneFile.open(tmp_path / "semantic.safetensors") as backbone:
        assert backbone.source.metadata["dcm.expert"] == "semantic"
        export_bundle(backbone, load_expert(tmp_path / "detail.safetensors"), tmp_path / "again.safetensors")
    assert not differing(bundle, load_file(tmp_path / "again.safetensors"))


def test_compact_files_are_the_same_expert_in_less_space(tmp_path):
    save_file(released("hunyuan_video t2v"), tmp_path / "bundle.safetensors")
    with BackboneFile.open(tmp_path / "bundle.safetensors") as backbone:
        export_detail(backbone, tmp_path / "block.safetensors")
        export_detail(backbone, tmp_path / "compact.safetensors", compact=True)
    block, compact = (load_expert(tmp_path / f"{form}.safetensors") for form in ("block", "compact"))
    base = convert(tmp_path / "bundle.safetensors", tmp_path / "comfy.safetensors", "comfy")
    assert not differing(merged(base, block), merged(base, compact))
    assert (tmp_path / "compact.safetensors").stat().st_size < (tmp_path / "block.safetensors").stat().st_size


def test_tensors_are_read_one_at_a_time_and_mostly_not_at_all(tmp_path, monkeypatch):
    """Only the expert's own tensors, what they replace, and the norms pass through memory."""
    bundle = released("hunyuan_video t2v")
    save_file(bundle, tmp_path / "bundle.safetensors")
    read = []
    former = TensorSource.read
    monkeypatch.setattr(TensorSource, "read", lambda self, name: read.append(name) or former(self, name))
    with BackboneFile.open(tmp_path / "bundle.safetensors") as backbone:
        convert_backbone(backbone, tmp_path / "comfy.safetensors", "comfy")
        assert read == []
        export_detail(backbone, tmp_path / "detail.safetensors")
    originals = {f"{root}.{rest}" for root, _, rest in (name.partition("_lora.") for name in bundle) if rest}
    allowed = {name for name in bundle if "_lora." in name or "lora_" in name or "norm" in name} | originals
    assert set(read) <= allowed and len(read) == len(set(read))


@pytest.mark.parametrize("name", ["wan t2v", "hunyuan_video t2v"])
def test_casting_is_what_torch_does_and_refuses_to_overflow(tmp_path, name):
    state = random_state(name)
    save_file(state, tmp_path / "x.safetensors")
    whole = convert(tmp_path / "x.safetensors", tmp_path / "fp32.safetensors", "comfy")
    cast = convert(tmp_path / "x.safetensors", tmp_path / "bf16.safetensors", "comfy", dtype="bf16")
    assert not differing(cast, {key: tensor.bfloat16() for key, tensor in whole.items()})
    changed = next(key for key in state if key.endswith(".bias"))
    state[changed][0] = 1e6
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ExpertFileError, match="does not fit into fp16"):
        convert(tmp_path / "x.safetensors", tmp_path / "fp16.safetensors", "comfy", dtype="fp16")
    assert not (tmp_path / "fp16.safetensors").exists()


def test_scaled_weights_are_not_cast(tmp_path):
    save_file(random_state("wan t2v"), tmp_path / "x.safetensors")
    comfy = convert(tmp_path / "x.safetensors", tmp_path / "comfy.safetensors", "comfy")
    for name in [key for key in comfy if key.endswith("ffn.0.weight")]:
        comfy[name] = comfy[name].to(torch.float8_e4m3fn)
        comfy[name.removesuffix("weight") + "scale_weight"] = torch.tensor(2.0)
    save_file(comfy, tmp_path / "scaled.safetensors")
    again = convert(tmp_path / "scaled.safetensors", tmp_path / "copy.safetensors", "comfy")
    assert not differing(comfy, again)
    with pytest.raises(LayoutError, match="quantised"):
        convert(tmp_path / "scaled.safetensors", tmp_path / "cast.safetensors", "comfy", dtype="bf16")


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_difference_makes_the_backbone_into_the_semantic_expert(tmp_path, pair):
    semantic, base = pair
    export_change(semantic, base, tmp_path / "difference.safetensors")
    expert = load_expert(tmp_path / "difference.safetensors")
    comfy = convert(base.source.paths[0], tmp_path / "comfy.safetensors", "comfy")
    wanted = convert(semantic.source.paths[0], tmp_path / "wanted.safetensors", "comfy")
    made = merged(comfy, expert)
    assert wanted.keys() == made.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(made[name], tensor)
    base.check_fit(expert)
    # It names the backbone that it makes, which detail experts are compared with.
    export_whole(semantic, tmp_path / "whole.safetensors")
    whole = read_header(tmp_path / "whole.safetensors").metadata
    assert expert.metadata.fingerprint == whole["dcm.fingerprint"] != expert.metadata.base_fingerprint


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_low_rank_difference_is_off_by_what_it_says(tmp_path, pair):
    semantic, base = pair
    rank = 2
    losses = export_change(semantic, base, tmp_path / "low_rank.safetensors", rank=rank)
    expert = load_expert(tmp_path / "low_rank.safetensors")
    base.check_fit(expert)
    comfy = convert(base.source.paths[0], tmp_path / "comfy.safetensors", "comfy")
    wanted = convert(semantic.source.paths[0], tmp_path / "wanted.safetensors", "comfy")
    made = merged(comfy, expert)
    pairs = {name for name, layer in expert.layers.items() if isinstance(layer, LowRank)}
    assert pairs and {expert.layers[name].rank for name in pairs} == {rank}
    for name, tensor in wanted.items():
        layer = name.removesuffix(".weight")
        if layer not in pairs or layer == name:
            torch.testing.assert_close(made[name], tensor, msg=name)
            continue
        best = torch.linalg.svdvals(tensor - comfy[name])
        lost = float((best[rank:].square().sum() / best.square().sum()).sqrt())
        measured = float(torch.linalg.vector_norm(made[name] - tensor) / torch.linalg.vector_norm(tensor - comfy[name]))
        assert losses[layer].relative == pytest.approx(lost, rel=1e-3) == pytest.approx(measured, rel=1e-2)
    said = expert.metadata.extra["dcm.low_rank_errors"]
    assert all(f'"{name}": {losses[name].relative:.2g}'[:-1] in said for name in pairs)


def test_large_matrices_are_decomposed_as_well_as_exactly():
    generator = torch.Generator().manual_seed(0)
    falling = torch.logspace(0, -2, 600)
    left, right = (torch.linalg.qr(torch.randn(size, 600, generator=generator))[0] for size in (700, 600))
    matrix = left * falling @ right.T
    best = float((falling[16:].square().sum() / falling.square().sum()).sqrt())
    down, up, loss = decompose(matrix.clone(), 16, torch.float32)
    assert loss.relative == pytest.approx(best, rel=0.01)
    again = decompose(matrix.clone(), 16, torch.float32)
    assert torch.equal(down, again[0]) and torch.equal(up, again[1])


@pytest.mark.parametrize("pair", ["wan t2v"], indirect=True)
def test_backbones_that_do_not_go_together_are_refused(tmp_path, pair):
    semantic, base = pair
    for name, match in (("wan i2v", "differ in .* tensors"), ("hunyuan_video t2v", "different families")):
        save_file(random_state(name), tmp_path / "other.safetensors")
        with (
            BackboneFile.open(tmp_path / "other.safetensors") as other,
            pytest.raises(ExpertFileError, match=match),
        ):
            export_change(semantic, other, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_an_expert_of_another_backbone_goes_into_no_bundle(tmp_path):
    for name in ("wan t2v", "wan i2v"):
        save_file(released(name), tmp_path / f"{name}.safetensors")
    with BackboneFile.open(tmp_path / "wan t2v.safetensors") as backbone:
        export_detail(backbone, tmp_path / "detail.safetensors")
    expert = load_expert(tmp_path / "detail.safetensors")
    with BackboneFile.open(tmp_path / "wan i2v.safetensors") as backbone:
        with pytest.raises(ExpertFileError, match="does not fit this backbone"):
            export_bundle(backbone, expert, tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_a_bundle_of_parts_that_were_not_made_together_is_doubtful(tmp_path):
    state = released("wan t2v")
    save_file(state, tmp_path / "own.safetensors")
    finetuned = {name: tensor * (1.5 if "norm" in name else 1) for name, tensor in state.items()}
    save_file(finetuned, tmp_path / "other.safetensors")
    with BackboneFile.open(tmp_path / "own.safetensors") as backbone:
        export_detail(backbone, tmp_path / "detail.safetensors")
        export_whole(backbone, tmp_path / "own_semantic.safetensors")
    with BackboneFile.open(tmp_path / "other.safetensors") as backbone:
        export_whole(backbone, tmp_path / "other_semantic.safetensors")
    expert = load_expert(tmp_path / "detail.safetensors")
    with BackboneFile.open(tmp_path / "own_semantic.safetensors") as backbone:
        assert export_bundle(backbone, expert, tmp_path / "bundle.safetensors") == []
    with BackboneFile.open(tmp_path / "other_semantic.safetensors") as backbone:
        (doubt,) = export_bundle(backbone, expert, tmp_path / "mixed.safetensors")
    assert "other weights of the same shape" in doubt


def test_a_semantic_expert_says_how_it_was_run(tmp_path):
    save_file(released("wan t2v"), tmp_path / "bundle.safetensors")
    save_file(random_state("cogvideox t2v"), tmp_path / "cog.safetensors")
    said = {}
    for name in ("bundle", "cog"):
        with BackboneFile.open(tmp_path / f"{name}.safetensors") as backbone:
            export_change(backbone, backbone, tmp_path / "x.safetensors")
        said[name] = load_expert(tmp_path / "x.safetensors").metadata
    assert said["bundle"].schedule == preset("wan", "official")
    assert said["cog"].schedule == preset("cogvideox")


def test_a_header_of_quantised_layers_follows_the_names_and_all_shards(tmp_path):
    """Of shards each header speaks of its own layers; under a prefix, by the prefixed name."""
    state = {
        f"module.{name}": tensor
        for name, tensor in find_family("wan").keymap.state_to_comfy(random_state("wan t2v")).items()
    }
    layers = [name.removesuffix(".weight") for name in state if name.endswith("attn.q.weight")]
    state |= {f"{layer}.weight_scale": torch.ones(()) for layer in layers}
    for number, layer in enumerate(layers[:2], 1):
        own = {name: state[name] for name in sorted(state)[number - 1 :: 2]}
        said = {"_quantization_metadata": json.dumps({"layers": {layer: {"format": "float8_e4m3fn"}}})}
        save_file(own, tmp_path / f"x-0000{number}-of-00002.safetensors", said)
    with BackboneFile.open(tmp_path) as backbone:
        convert_backbone(backbone, tmp_path / "out.safetensors", "comfy")
    told = json.loads(read_header(tmp_path / "out.safetensors").metadata["_quantization_metadata"])["layers"]
    assert list(told) == [layer.removeprefix("module.") for layer in layers[:2]]


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        (torch.float64, torch.float32),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float8_e4m3fn, torch.bfloat16),
    ],
    ids=str,
)
def test_a_difference_keeps_the_precision_of_the_weights(tmp_path, stored, written):
    base, change = random_state("wan t2v", dtype=torch.float64), random_state("wan t2v", seed=1, dtype=torch.float64)
    save_file({name: tensor.to(stored) for name, tensor in base.items()}, tmp_path / "base.safetensors")
    save_file({name: (base[name] + change[name]).to(stored) for name in base}, tmp_path / "semantic.safetensors")
    with (
        BackboneFile.open(tmp_path / "semantic.safetensors") as one,
        BackboneFile.open(tmp_path / "base.safetensors") as other,
    ):
        export_change(one, other, tmp_path / "x.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "x.safetensors").values()} == {written}


def test_a_difference_below_the_rounding_of_float32_is_kept(tmp_path):
    base, change = random_state("wan t2v", dtype=torch.float64), random_state("wan t2v", seed=1, dtype=torch.float64)
    save_file(base, tmp_path / "base.safetensors")
    save_file({name: base[name] + 1e-9 * change[name] for name in base}, tmp_path / "semantic.safetensors")
    with (
        BackboneFile.open(tmp_path / "semantic.safetensors") as one,
        BackboneFile.open(tmp_path / "base.safetensors") as other,
    ):
        export_change(one, other, tmp_path / "x.safetensors")
    layer = load_expert(tmp_path / "x.safetensors").layers["blocks.0.ffn.0"]
    assert torch.allclose(layer.weight, 1e-9 * change["blocks.0.ffn.net.0.proj.weight"].float(), rtol=1e-5, atol=1e-14)
