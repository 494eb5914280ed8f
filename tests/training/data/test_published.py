"""The layout of the published training set, written here as its authors' tools write it."""

import json
import pickle
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from training.config import DataConfig
from training.data.bucketed import BucketedData
from training.data.published import PublishedData
from training.data.teacher_paths import TeacherPaths
from training.errors import ConfigError
from training.methods.distillation import check_guidance
from training.methods.semantic import SemanticOptions
from training.run.draws import Draws

LENGTHS = {"a": 5, "b": 3, "c": 256}


@pytest.fixture
def folder(tmp_path):
    """Three clips, one with a batch dimension, whose captions have 5, 3 and 256 tokens."""
    items = []
    for number, (name, length) in enumerate(LENGTHS.items()):
        generator = torch.Generator().manual_seed(number)
        latents = torch.randn(16, 3, 4, 6, generator=generator).bfloat16()
        embedding = torch.randn(257, 4096, generator=generator).half()
        embedding[0, 768:] = 0
        embedding[1 + length :] = 99  # padding is not zeros there
        files = {
            "latent": latents[None] if name == "b" else latents,
            "prompt_embed": embedding,
            "prompt_attention_mask": torch.arange(256) < length,
        }
        for kind, tensor in files.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            torch.save(tensor, tmp_path / kind / f"{name}.pt")
        items.append(
            {
                "length": 3, "latent_path": f"{name}.pt", "prompt_embed_path": f"{name}.pt",
                "prompt_attention_mask": f"{name}.pt", "caption": f"caption {name}",
            }
        )  # fmt: skip
    (tmp_path / "videos2caption.json").write_text(json.dumps(items))
    return tmp_path


def data(folder, batch_size=3, text_dropout=0.0, **options):
    options = {"folder": str(folder), **options}
    return PublishedData(
        DataConfig(name="published", batch_size=batch_size, text_dropout=text_dropout, options=options)
    )


def test_latents_are_scaled_and_captions_lose_their_padding(folder):
    published = data(folder)
    batch = published.batch(Draws.of(0, 0, 3))
    assert batch.latents.dtype == torch.float32 and published.latent_shape == (16, 3, 4, 6)
    lengths = batch.conditions.mask.sum(1).tolist()
    assert sorted(lengths) == [3, 5, 256] and batch.conditions.text.shape == (3, 256, 4096)
    assert not (batch.conditions.text == 99).any()
    for row, length in enumerate(lengths):
        name = next(name for name, each in LENGTHS.items() if each == length)
        raw = torch.load(folder / "latent" / f"{name}.pt", weights_only=True).reshape(16, 3, 4, 6).float()
        embedding = torch.load(folder / "prompt_embed" / f"{name}.pt", weights_only=True).float()
        assert torch.equal(batch.latents[row], raw * 0.476986)
        assert torch.equal(batch.conditions.text[row, :length], embedding[1 : 1 + length])
        assert torch.equal(batch.conditions.pooled[row], embedding[0, :768])


@pytest.mark.parametrize("kind", ["latent", "prompt_embed", "prompt_attention_mask"])
def test_one_other_value_is_another_set_and_a_copy_is_the_same(folder, tmp_path_factory, kind):
    before = data(folder).content  # of which checkpoints of before say the beginning
    assert before.startswith(f"{BucketedData.content.func(data(folder))}, files ")
    copied = shutil.copytree(folder, tmp_path_factory.mktemp("copied") / "set", copy_function=shutil.copyfile)
    assert data(copied).content == before
    path = copied / kind / "b.pt"
    tensor = torch.load(path, weights_only=True)
    tensor.view(-1)[len(tensor.view(-1)) // 2] = 1
    torch.save(tensor, path)
    assert data(copied).content != before
    path.unlink()
    with pytest.raises(OSError, match=r"b\.pt cannot be read.*: download it again"):
        assert data(copied).content


def test_its_prompts_are_its_captions(folder):
    assert data(folder).prompts == [f"caption {name}" for name in LENGTHS]


def test_no_caption_is_seen_and_finite(folder):
    """A mask of nothing makes attention NaN."""
    published = data(folder)
    conditions = published.conditions(["caption a", ""])
    assert conditions.mask.sum(1).tolist() == [5, 1] and not conditions.text[1].any()
    other = published.unconditional(conditions)
    assert other.text.shape == (2, 1, 4096) and other.mask is None and not other.pooled.any()


@pytest.mark.parametrize("wrapped", [False, True])
def test_guidance_needs_a_text_of_no_caption_to_lead_away_from(folder, wrapped):
    for kind in ("prompt_embed", "prompt_attention_mask"):
        shutil.copy(folder / kind / "a.pt", folder / kind / "none.pt")

    def check(guidance, **options):
        found = data(folder, **options)
        if wrapped:
            plan = SimpleNamespace(batch=1, recipe=SimpleNamespace(shape=list(found.latent_shape)))
            found = TeacherPaths(found, Mock(plan=plan), 0.0, 1)
        config = SimpleNamespace(backbone=SimpleNamespace(family="hunyuan_video"), stage="semantic")
        settings = SemanticOptions(guidance=guidance, embedded_guidance=6.0)
        check_guidance(Mock(config=config, data=found), settings)

    check(1.0)
    check(6.0, unconditional="none.pt")
    with pytest.raises(ConfigError, match="guidance=6 leads away from the empty caption, .* options.unconditional"):
        check(6.0)


def test_dropping_captions_needs_a_text_of_no_caption(folder):
    with pytest.raises(ConfigError, match="has no embedding of the empty caption. Set it to 0, or name one in"):
        data(folder, text_dropout=0.1)
    published = data(folder, text_dropout=1.0, unconditional="b.pt")
    conditions = published.batch(Draws.of(0, 0, 3)).conditions
    embedding = torch.load(folder / "prompt_embed" / "b.pt", weights_only=True).float()
    assert conditions.mask is None and all(torch.equal(row, embedding[1:4]) for row in conditions.text)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("kind", "place"), [("latent", (0, 0, 0, 0)), ("prompt_embed", (1, 0))])
def test_the_digest_of_its_content_knows_all_of_a_file(folder, legacy, kind, place):
    """Also of one that PyTorch wrote before it wrote archives, whose end says nothing of what is before it."""
    path = folder / kind / "a.pt"
    tensor = torch.load(path, weights_only=True)
    torch.save(tensor, path, _use_new_zipfile_serialization=not legacy)
    before = data(folder).content
    tensor[place] += 1
    torch.save(tensor, path, _use_new_zipfile_serialization=not legacy)
    assert before != data(folder).content == data(folder).content


class Bad:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("content", [pickle.dumps(Bad(), 2), b"", b"<html>"])
def test_a_file_that_is_no_tensor_runs_nothing_and_is_named(folder, content, capsys):
    (folder / "latent" / "b.pt").write_bytes(content)
    with pytest.raises(OSError, match=r"b\.pt cannot be read as a tensor .*: download it again"):
        data(folder)
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "data.options.folder has to be the published set"),
        ("[", "cannot be read"),
        ("[]", "is no list of published clips, each with caption, latent_path"),
        ('[{"caption": "x"}]', "is no list of published clips"),
    ],
)
def test_a_list_that_cannot_be_used(folder, text, message):
    path = folder / "videos2caption.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        data(folder)


def test_a_caption_that_is_not_there(folder):
    with pytest.raises(ValueError, match="'a cat' is no caption of"):
        data(folder).conditions(["a cat"])


def test_tensors_of_other_shapes_are_named(folder):
    torch.save(torch.zeros(16, 4, 6), folder / "latent" / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt is \[16, 4, 6\], which is no clip's latents"):
        data(folder)
    torch.save(torch.zeros(256, dtype=torch.bool), folder / "prompt_attention_mask" / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt and its mask are \[257, 4096\] and \[256\], not a text's"):
        data(folder)
