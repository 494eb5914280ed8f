"""Writing an expert file and reading it back."""

import math

import pytest
import torch
from harness.experts import DIM, RANK, expert, metadata, parts, same_meaning, write_as_is
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from dcm_core.errors import ExpertFileError
from dcm_core.expert.file import content_digest, load_expert, metadata_of, save_expert
from dcm_core.expert.layers import Difference, Expert, LowRank, Replacement
from dcm_core.expert.merge import merged
from dcm_core.expert.metadata import ExpertMetadata
from dcm_core.families.presets import FAMILIES
from dcm_core.files.format import read_header
from dcm_core.schedule.experts import ExpertSchedule
from dcm_core.schedule.grid import NoiseGrid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_is_read_back(tmp_path, dtype):
    one = expert(dtype=dtype)
    save_expert(tmp_path / "e.safetensors", one)
    again = load_expert(tmp_path / "e.safetensors")
    assert same_meaning(one, again)
    assert again.metadata == one.metadata
    assert again.layers["blocks.1.self_attn.o"].alpha == 2.0 * RANK
    assert again.layers["head.head"].weight is None
    assert again.metadata.schedule.lists[6][:2] == (1.0, 0.992)


def test_reading_and_writing_again_gives_the_same_file(tmp_path):
    save_expert(tmp_path / "a.safetensors", expert())
    save_expert(tmp_path / "b.safetensors", load_expert(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_order_of_layers_makes_no_other_file(tmp_path):
    one = expert()
    save_expert(tmp_path / "a.safetensors", one)
    one.layers = dict(reversed(one.layers.items()))
    save_expert(tmp_path / "b.safetensors", one)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_keys_are_the_ones_stock_lora_loaders_know(tmp_path):
    save_expert(tmp_path / "e.safetensors", expert(blocks=1))
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        assert set(file.keys()) == {
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
            "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
            "diffusion_model.blocks.0.self_attn.q.alpha",
            "diffusion_model.blocks.0.self_attn.o.lora_A.weight",
            "diffusion_model.blocks.0.self_attn.o.lora_B.weight",
            "diffusion_model.blocks.0.self_attn.o.alpha",
            "diffusion_model.time_embedding.0.diff",
            "diffusion_model.time_embedding.0.diff_b",
            "diffusion_model.blocks.0.cross_attn.v.diff",
            "diffusion_model.head.head.diff_b",
            "diffusion_model.blocks.0.modulation.diff",
        }
        key = "diffusion_model.blocks.0.self_attn.q"
        down, up = file.get_tensor(f"{key}.lora_A.weight"), file.get_tensor(f"{key}.lora_B.weight")
        alpha = file.get_tensor(f"{key}.alpha")
        assert alpha.shape == ()
    # What the host's loader makes of it: weight + strength * alpha / rows(A) * B @ A.
    base = torch.randn(DIM, DIM)
    one = expert(blocks=1)
    one = Expert(one.metadata, {"blocks.0.self_attn.q": one.layers["blocks.0.self_attn.q"]})
    ours = merged({"blocks.0.self_attn.q.weight": base}, one, strength=0.5)["blocks.0.self_attn.q.weight"]
    torch.testing.assert_close(ours, base + 0.5 * alpha / down.shape[0] * up @ down)


def test_the_other_spelling_of_a_pair_is_read_and_no_alpha_means_scale_one(tmp_path):
    one = expert(alpha=None)
    tensors, header = parts(one)
    respelt = {
        key.replace(".lora_A.", ".lora_down.").replace(".lora_B.", ".lora_up."): value
        for key, value in tensors.items()
        if not key.endswith(".alpha")
    }
    write_as_is(tmp_path / "e.safetensors", respelt, header)
    layer = load_expert(tmp_path / "e.safetensors").layers["blocks.0.self_attn.q"]
    assert torch.equal(layer.down, one.layers["blocks.0.self_attn.q"].down)
    assert layer.scale == 1.0


def test_exact_new_weights_are_read_and_written_under_their_stock_names(tmp_path):
    tensors, header = parts(expert())
    tensors["diffusion_model.text_embedding.0.set_weight"] = torch.ones(DIM, DIM)
    tensors["diffusion_model.text_embedding.0.bias.set_weight"] = torch.zeros(DIM)
    tensors["diffusion_model.text_embedding.2.set_weight"] = torch.ones(DIM, DIM)
    write_as_is(tmp_path / "a.safetensors", tensors, header | {"dcm.layers": "11"})
    loaded = load_expert(tmp_path / "a.safetensors")
    assert isinstance(loaded.layers["text_embedding.0"], Replacement)
    assert loaded.layers["text_embedding.2"].bias is None
    save_expert(tmp_path / "b.safetensors", loaded)
    assert read_header(tmp_path / "b.safetensors").tensors.keys() == tensors.keys()
    assert same_meaning(load_expert(tmp_path / "b.safetensors"), loaded)


def test_metadata_are_told_without_reading_the_tensors(tmp_path):
    path = tmp_path / "e.safetensors"
    save_expert(path, expert(dtype=torch.bfloat16))
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF  # a damage inside the tensors, which only load_expert can notice
    path.write_bytes(content)
    assert metadata_of(path) == expert().metadata
    info = read_header(path).tensors["diffusion_model.blocks.1.modulation.diff"]
    assert (info.dtype, info.shape) == ("BF16", (1, 6, DIM))
    with pytest.raises(ExpertFileError, match="digest"):
        load_expert(path)


def test_a_loaded_expert_does_not_depend_on_its_file_any_more(tmp_path):
    path = tmp_path / "e.safetensors"
    save_expert(path, expert())
    loaded = load_expert(path)
    with open(path, "rb+") as file:  # in place: the worst a careless tool can do to a mapped file
        file.write(b"\0" * path.stat().st_size)
    assert same_meaning(loaded, expert())


def test_tensors_that_share_memory_or_stand_transposed_are_saved_right(tmp_path):
    whole = torch.randn(2 * RANK, DIM)
    layers = {
        "a": LowRank(whole[:RANK], torch.randn(RANK, DIM).T, 1.0),
        "b": LowRank(whole[RANK:], torch.randn(DIM, RANK), 1.0),
        "c": Difference(whole),
    }
    one = Expert(metadata(alpha=1.0), layers)
    save_expert(tmp_path / "e.safetensors", one)
    assert same_meaning(load_expert(tmp_path / "e.safetensors"), one)


def test_metadata_of_a_newer_minor_version_is_kept(tmp_path):
    tensors, header = parts(expert())
    header |= {"dcm.format": "1.7", "dcm.something_new": "yes", "ss_tag": "mine"}
    write_as_is(tmp_path / "a.safetensors", tensors, header)
    loaded = load_expert(tmp_path / "a.safetensors")
    assert loaded.metadata.extra["dcm.something_new"] == "yes"
    save_expert(tmp_path / "b.safetensors", loaded)
    assert load_expert(tmp_path / "b.safetensors").metadata == loaded.metadata


def test_modelspec_fields_are_there_for_other_tools():
    header = metadata(title="My expert").to_header()
    assert header["modelspec.title"] == "My expert"
    assert header["modelspec.architecture"].startswith("wan")
    assert header["modelspec.sai_model_spec"]
    assert metadata().title == "wan2.1-t2v-tiny DCM detail expert"


def test_saving_refuses_what_no_loader_would_take(tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(ExpertFileError, match="no layer"):
        save_expert(path, Expert(metadata(), {}))
    broken = expert()
    broken.layers["head.head"].bias[3] = math.inf
    with pytest.raises(ExpertFileError, match="head.head.diff_b"):
        save_expert(path, broken)
    with pytest.raises(ExpertFileError, match="float8"):
        save_expert(path, Expert(metadata(), {"a": Difference(torch.zeros(2, 2, dtype=torch.float8_e4m3fn))}))
    twice = expert()
    twice.parameters["head.head"] = torch.zeros(2)
    with pytest.raises(ExpertFileError, match="head.head"):
        save_expert(path, twice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "shapes", [((4, 8), (8, 5)), ((4, 8, 1), (8, 4)), ((0, 8), (8, 0))], ids=["ranks", "dimensions", "empty"]
)
def test_a_pair_must_fit_together(shapes):
    with pytest.raises(ExpertFileError, match="rank"):
        LowRank(torch.zeros(shapes[0]), torch.zeros(shapes[1]), 1.0)


def test_a_difference_needs_something_of_a_sensible_shape():
    with pytest.raises(ExpertFileError, match="weight, a bias"):
        Difference()
    with pytest.raises(ExpertFileError, match="one dimension"):
        Difference(bias=torch.zeros(2, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"expert": "both"},
        {"family": ""},
        {"guidance": math.nan},
        {"guidance": -1.0},
        {"embedded_guidance": -1.0},
        {"rank": 0},
        {"alpha": math.inf},
    ],
    ids=str,
)
def test_metadata_that_makes_no_sense_is_refused(change):
    with pytest.raises(ExpertFileError, match=next(iter(change))):
        metadata(**change)


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(deadline=None)
@given(
    schedule=st.one_of(
        st.sampled_from([family.schedule for family in FAMILIES.values()]),
        st.builds(
            lambda shift, points, at: ExpertSchedule(NoiseGrid(shift, points), int(at * (points - 2))),
            st.floats(0.5, 50),
            st.integers(2, 200),
            st.floats(0, 1),
        ),
    ),
    kind=st.sampled_from(["semantic", "detail"]),
    guidance=st.floats(0, 1e4),
    rank=st.one_of(st.none(), st.integers(1, 512)),
    alpha=st.one_of(st.none(), st.floats(-1e4, 1e4)),
    texts=st.tuples(_TEXT, _TEXT, _TEXT),
    complete=st.booleans(),
)
def test_metadata_survives_the_header(schedule, kind, guidance, rank, alpha, texts, complete):
    one = ExpertMetadata(
        kind, "wan", "tiny", schedule, guidance, rank, alpha, texts[0], texts[1], texts[2], complete=complete
    )
    header = one.to_header()
    assert all(isinstance(value, str) for value in header.values())
    assert ExpertMetadata.from_header(header) == one


def test_the_guidance_that_weights_carry_and_the_one_their_network_was_told_are_two(tmp_path):
    one = expert(family="hunyuan_video", guidance=1.0, embedded_guidance=6.0)
    save_expert(tmp_path / "e.safetensors", one)
    made = load_expert(tmp_path / "e.safetensors").metadata
    assert (made.guidance, made.embedded_guidance) == (1.0, 6.0)


@pytest.mark.parametrize(("family", "told"), [("hunyuan_video", 6.0), ("wan", None)])
def test_files_of_format_1_0_keep_the_meaning_of_their_guidance(family, told, tmp_path):
    tensors, header = parts(expert(family=family))
    header = {key: value for key, value in header.items() if key != "dcm.embedded_guidance"} | {"dcm.format": "1.0"}
    write_as_is(tmp_path / "e.safetensors", tensors, header)
    made = load_expert(tmp_path / "e.safetensors").metadata
    assert (made.guidance, made.embedded_guidance) == (6.0, told)


def test_the_digest_sees_every_bit_and_ignores_labels():
    tensors = {"a": torch.randn(3, 4), "alpha": torch.tensor(2.0), "b": torch.randn(2).bfloat16()}
    header = {"dcm.rank": "4", "modelspec.title": "x"}
    whole = content_digest(header, tensors)
    assert (
        content_digest(header | {"modelspec.title": "y", "dcm.digest": "z"}, dict(reversed(tensors.items()))) == whole
    )
    assert content_digest(header | {"dcm.rank": "5"}, tensors) != whole
    assert content_digest(header, tensors | {"alpha": torch.tensor(2.0000002)}) != whole
    assert content_digest(header, tensors | {"a": tensors["a"].reshape(4, 3)}) != whole
    assert content_digest(header, tensors | {"b": tensors["b"].view(torch.float16)}) != whole
    renamed = {"c" if key == "a" else key: value for key, value in tensors.items()}
    assert content_digest(header, renamed) != whole
