"""Does an expert fit a backbone: the report names everything that does not."""

import re
from dataclasses import replace

import pytest
import torch
from harness.diffusers_models import opened, released
from harness.experts import DIM, RANK, expert, metadata, write_as_is
from safetensors.torch import load_file

from dcm_core.backbone.bundle import expert_from_bundle
from dcm_core.errors import ExpertFileError
from dcm_core.expert.check import check
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.fingerprint import fingerprint
from dcm_core.expert.layers import Difference, Expert, LowRank, Replacement
from dcm_core.expert.merge import weight_differences
from dcm_core.families.presets import find_family
from dcm_core.files.stream import TensorSource


def backbone(blocks: int = 2) -> dict[str, tuple[int, ...]]:
    """Logical shapes of a backbone that the small expert fits."""
    shapes = {"head.head.weight": (DIM, DIM), "head.head.bias": (DIM,), "head.modulation": (1, 2, DIM)}
    for name in (
        "time_embedding.0",
        "time_embedding.2",
        "time_projection.1",
        "text_embedding.0",
        "text_embedding.2",
    ):
        shapes |= {f"{name}.weight": (DIM, DIM), f"{name}.bias": (DIM,)}
    for i in range(blocks):
        shapes[f"blocks.{i}.modulation"] = (1, 6, DIM)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"):
            shapes |= {f"blocks.{i}.{part}.weight": (DIM, DIM), f"blocks.{i}.{part}.bias": (DIM,)}
            shapes |= {f"blocks.{i}.cross_attn.{part[-1]}.weight": (DIM, DIM)}
        shapes[f"blocks.{i}.self_attn.norm_q.weight"] = (DIM,)
    return shapes


def norms(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"blocks.{i}.self_attn.norm_q.weight": torch.rand(DIM, generator=generator) for i in range(2)}


def fitting(**changes) -> Expert:
    return expert(base_fingerprint=fingerprint("wan", backbone(), norms()), **changes)


def test_a_fitting_expert_matches_without_a_word():
    report = check(fitting(), backbone(), norms(), "wan")
    assert report.ok and not report.warnings
    assert len(report.matched) == 4 + 3 + 1 + 2
    assert "blocks.1.self_attn.o.weight" in report.matched and "head.head.bias" in report.matched
    report.raise_if_wrong()


def test_a_stamp_of_another_family_is_said():
    stamped = fitting(extra={"ss_base_model_version": "flux1"})
    report = check(stamped, backbone(), norms(), "wan")
    assert report.ok and "is for the wan family, but its metadata names flux1" in "".join(report.warnings)
    assert not check(fitting(extra={"ss_base_model_version": "wan_2.1"}), backbone(), norms(), "wan").warnings


def test_the_norms_are_those_of_the_multiplied_out_differences():
    one = fitting()
    report = check(one, backbone(), norms(), "wan")
    exact = weight_differences(one, {name: torch.zeros(shape) for name, shape in backbone().items()})
    for name, norm in report.norms.items():
        parts = [exact[key] for key in (name, f"{name}.weight", f"{name}.bias") if key in exact]
        assert norm == pytest.approx(torch.cat([part.flatten() for part in parts]).norm().item(), rel=1e-4)
    assert set(report.norms) == set(one.layers) | set(one.parameters)


def test_everything_wrong_is_named_at_once():
    shapes = backbone()
    del shapes["blocks.0.self_attn.q.weight"], shapes["blocks.1.modulation"]
    shapes["time_embedding.0.weight"] = (DIM, DIM + 1)
    shapes["head.head.bias"] = (DIM + 2,)
    report = check(fitting(), shapes, norms(), "wan")
    assert report.unexpected == ["blocks.0.self_attn.q.weight", "blocks.1.modulation"]
    assert report.misshaped == {
        "time_embedding.0.weight": ((DIM, DIM), (DIM, DIM + 1)),
        "head.head.bias": ((DIM,), (DIM + 2,)),
    }
    with pytest.raises(ExpertFileError) as caught:
        report.raise_if_wrong()
    for word in (
        "blocks.0.self_attn.q.weight",
        "blocks.1.modulation",
        "[8, 8] for [8, 9]",
        "other layers",
        "Choose",
    ):
        assert word in str(caught.value)


def test_two_changes_of_one_weight_are_named():
    one = fitting()
    one.parameters["time_embedding.0.weight"] = torch.ones(DIM, DIM)
    report = check(one, backbone(), norms(), "wan")
    assert report.doubled == ["time_embedding.0.weight"] and not report.ok


def test_another_family_is_an_error_even_where_all_shapes_fit():
    with pytest.raises(ExpertFileError, match="wan family.*hunyuan_video"):
        check(fitting(), backbone(), norms(), "hunyuan_video").raise_if_wrong()


def test_another_backbone_of_the_family_is_an_error_and_a_fine_tuned_copy_a_warning():
    larger = backbone(blocks=3)
    with pytest.raises(ExpertFileError, match="other layers"):
        check(fitting(), larger, norms(), "wan").raise_if_wrong()
    report = check(fitting(), backbone(), norms(seed=1), "wan")
    assert report.ok and len(report.warnings) == 1 and "other weights" in report.warnings[0]
    assert check(fitting(), backbone(), None, "wan").warnings == []  # nothing known about the norms here
    nameless = check(expert(base_fingerprint=""), backbone(), norms(), "wan")
    assert nameless.ok and "base_fingerprint" in nameless.warnings[0]


def test_a_detail_expert_is_compared_with_what_the_semantic_expert_makes():
    after = fingerprint("wan", backbone(), norms(seed=7))
    semantic = metadata(expert="semantic", fingerprint=after)
    detail = expert(base_fingerprint=after)
    assert check(detail, backbone(), norms(), "wan", semantic).warnings == []
    assert check(detail, backbone(), norms(), "wan").warnings  # without it, said
    other = metadata(expert="semantic", fingerprint=fingerprint("wan", backbone(), norms(seed=8)))
    assert check(detail, backbone(), norms(), "wan", other).warnings
    assert check(detail, backbone(), norms(seed=7), "wan").warnings == []  # a whole semantic backbone


def test_differences_of_zero_are_warned_about():
    one = fitting()
    one.layers["blocks.0.self_attn.q"].up.zero_()
    one.layers["blocks.0.self_attn.o"] = replace(one.layers["blocks.0.self_attn.o"], alpha=0.0)
    one.parameters["blocks.1.modulation"].zero_()
    (warning,) = check(one, backbone(), norms(), "wan").warnings
    assert "without effect" in warning
    for name in ("blocks.0.self_attn.q", "blocks.0.self_attn.o", "blocks.1.modulation"):
        assert name in warning
    assert "time_embedding" not in warning


def test_a_file_that_promises_to_be_complete_is_held_to_it():
    low_rank, replaced = find_family("wan").keymap.detail_layers(backbone())
    layers = {name: LowRank(torch.ones(RANK, DIM), torch.ones(DIM, RANK), 1.0) for name in low_rank}
    layers |= {name: Difference(torch.ones(DIM, DIM), torch.ones(DIM)) for name in replaced}
    promising = {"complete": True, "base_fingerprint": fingerprint("wan", backbone(), norms())}
    assert check(Expert(metadata(**promising), layers), backbone(), norms(), "wan").ok
    del layers["blocks.1.cross_attn.v"], layers["text_embedding.2"]
    report = check(Expert(metadata(**promising), layers), backbone(), norms(), "wan")
    lost = ["blocks.1.cross_attn.v.weight", "text_embedding.2.bias", "text_embedding.2.weight"]
    assert report.missing == lost
    assert check(Expert(metadata(**promising | {"complete": False}), layers), backbone(), norms(), "wan").ok


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("kind", [Difference, Replacement])
def test_a_replaced_layer_needs_the_bias_that_its_base_has(kind, complete):
    one = fitting(complete=complete)
    one.layers["text_embedding.0"] = kind(torch.ones(DIM, DIM))
    report = check(one, backbone(), norms(), "wan")
    assert report.biasless == ["text_embedding.0.bias"] and not report.ok
    assert "replaced layers without their bias (export the expert again): text_embedding.0.bias" in report.describe()
    without = {name: shape for name, shape in backbone().items() if name != "text_embedding.0.bias"}
    assert not check(one, without, norms(), "wan").biasless


@pytest.mark.parametrize("family", ["wan t2v", "hunyuan_video t2v"])
@pytest.mark.parametrize("compact", [False, True], ids=["block", "compact"])
def test_every_tensor_of_a_complete_expert_is_asked_for(family, compact, tmp_path):
    """Whichever tensor a file has lost, in whatever form, it is refused when it is read or when it is laid over."""
    bundle = opened(released(family))
    save_expert(tmp_path / "whole.safetensors", expert_from_bundle(bundle), compact=compact)
    tensors = load_file(tmp_path / "whole.safetensors")
    header = TensorSource([tmp_path / "whole.safetensors"]).metadata
    for lost in tensors:
        rest = {key: tensor for key, tensor in tensors.items() if key != lost}
        layers = {match[1] for key in rest if (match := re.match(r"(.*?)\.(lora_|diff|alpha|fused_)", key))}
        write_as_is(tmp_path / "e.safetensors", rest, header | {"dcm.layers": str(len(layers))})
        with pytest.raises(ExpertFileError):
            one = load_expert(tmp_path / "e.safetensors")
            check(one, bundle.shapes, bundle.norms, one.metadata.family).raise_if_wrong()


def test_a_complete_semantic_difference_covers_every_parameter():
    shapes = {"a.weight": (2, 2), "a.bias": (2,), "table": (1, 2)}
    semantic = metadata(expert="semantic", complete=True, base_fingerprint=fingerprint("wan", shapes))
    whole = Expert(semantic, {"a": Difference(torch.ones(2, 2), torch.ones(2))}, {"table": torch.ones(1, 2)})
    assert check(whole, shapes).ok
    whole.parameters.clear()
    assert check(whole, shapes).missing == ["table"]
