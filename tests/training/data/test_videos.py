"""Batches from a cache: what was prepared, the same for every number of processes, and what is wrong with a cache."""

import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from harness.clips import moving, write_animation
from harness.fake_encoder import RULE, FakeEncoder

from dcm_core.shapes.captions import ALL_ATTRIBUTES
from dcm_core.shapes.render import render_clip
from training.config import DataConfig
from training.data.buckets import Size
from training.data.videos import VideosData
from training.encoders.shapes import ShapesEncoder
from training.errors import ConfigError
from training.pictures import to_pixels
from training.preparation.run import Settings, prepare
from training.preparation.scan import ClipRules
from training.run.draws import Draws
from training.trainer import build_trainer

ARCHITECTURE = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 3}
CAPTIONS = ["a kite", "a red kite over the sea", "two dogs", "one dog runs far away", "rain", "snow on a roof", "fog"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Seven clips, five across and two upright, each with a caption of another length."""
    folder, cache = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("cache")
    for number, caption in enumerate(CAPTIONS):
        height, width = (48, 32) if number in (2, 5) else (32, 48)
        write_animation(folder / f"{number}.webp", moving(9, height, width, seed=number))
        (folder / f"{number}.txt").write_text(caption)
    rules = ClipRules(sizes=[RULE.usual, Size(9, 48, 32)], fps=8.0)
    prepare(
        Settings(data=folder, output=cache, backbone="fake", rules=rules, negative="blurry", shard_bytes=2000),
        FakeEncoder(),
    )
    return cache


@pytest.fixture
def cache(made, tmp_path) -> Path:
    """A copy of that cache, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "cache"))


def data(cache: Path, batch_size: int = 2, text_dropout: float = 0.0, **options) -> VideosData:
    options = {"cache": str(cache), **options}
    return VideosData(DataConfig(name="videos", batch_size=batch_size, text_dropout=text_dropout, options=options))


def draws(iteration: int, count: int = 2, rows: range | None = None) -> Draws:
    return Draws(seed=5, iteration=iteration, count=count, rows=range(count) if rows is None else rows)


def expected(caption: str) -> dict[str, torch.Tensor]:
    return FakeEncoder().texts([caption])[0]


def test_a_batch_is_what_was_prepared(made):
    videos = data(made)
    seen = {}
    for iteration in range(4):  # an epoch: three batches across, one upright
        batch = videos.batch(draws(iteration))
        conditions = batch.conditions
        for row, latents in enumerate(batch.latents):
            there = slice(None) if conditions.mask is None else conditions.mask[row]
            tokens = conditions.text[row][there]
            (caption,) = (each for each in CAPTIONS if torch.equal(expected(each)["text"], tokens))
            assert torch.equal(conditions.pooled[row], expected(caption)["pooled"])
            assert conditions.mask is None or not conditions.text[row][~there].any()
            number = CAPTIONS.index(caption)
            upright = number in (2, 5)
            assert latents.shape == ((3, 3, 6, 4) if upright else (3, 3, 4, 6))
            frames = moving(9, 48 if upright else 32, 32 if upright else 48, seed=number)
            wanted = FakeEncoder().latents(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])[0]
            assert torch.allclose(latents, wanted, atol=0.05)
            seen[caption] = number
    assert set(seen) == set(CAPTIONS)
    assert videos.latent_shape == (3, 3, 4, 6) and videos.made_for == "fake" and videos.batch_size == 2


def test_every_number_of_processes_sees_the_same(made):
    videos = data(made, batch_size=4, text_dropout=0.5)
    for iteration in range(6):
        whole = videos.batch(draws(iteration, 4))
        for rows in (range(0, 2), range(2, 4), range(3, 4)):
            part = data(made, batch_size=4, text_dropout=0.5).batch(draws(iteration, 4, rows))
            assert torch.equal(part.latents, whole.latents[rows.start : rows.stop])
            assert torch.equal(part.conditions.pooled, whole.conditions.pooled[rows.start : rows.stop])


def test_a_batch_is_the_same_whatever_another_thread_reads_meanwhile(made):
    """A validation draws other numbers of clips while the next batch is read ahead."""
    videos = data(made)
    before = videos.batch(draws(0))

    class Interrupted(Draws):
        def __getattribute__(self, name):
            if name == "count":
                videos.batch(draws(0, 3))
            return super().__getattribute__(name)

    again = videos.batch(Interrupted(seed=5, iteration=0, count=2, rows=range(2)))
    assert torch.equal(before.latents, again.latents)


def test_captions_are_dropped_to_that_of_no_caption(made):
    empty = expected("")
    for share, count in ((0.0, 0), (1.0, 160), (0.25, 40)):
        videos = data(made, batch_size=4, text_dropout=share)
        pooled = torch.cat([videos.batch(draws(i, 4)).conditions.pooled for i in range(40)])
        dropped = int((pooled == empty["pooled"]).all(1).sum())
        assert abs(dropped - count) <= (20 if 0 < share < 1 else 0)


def test_the_other_side_of_guidance(made):
    conditions = data(made).conditions(["two dogs", "rain"])
    assert conditions.mask.tolist() == [[True, True, True], [True, True, False]]
    for options, caption in (({}, ""), ({"negative_prompt": True}, "blurry")):
        other = data(made, **options).unconditional(conditions)
        assert other.mask is None and torch.equal(other.text[1], expected(caption)["text"])
        assert torch.equal(other.pooled[0], expected(caption)["pooled"]) and len(other) == 2


def test_its_prompts_are_all_captions_that_are_embedded(made):
    """And neither that of no caption nor the negative one."""
    assert sorted(data(made).prompts) == sorted(CAPTIONS)


def test_a_prompt_that_was_not_embedded(made):
    with pytest.raises(ValueError, match=r"'a cat' is not embedded in .*: write it into a text file .* --prompts FILE"):
        data(made).conditions(["rain", "a cat"])


def test_clips_are_shown_by_the_autoencoder_of_the_cache(made, monkeypatch):
    with pytest.raises(ConfigError, match="There is no autoencoder of fake in training/encoders to show clips with"):
        data(made).decode(torch.rand(3, 3, 3, 4, 6))
    module = ModuleType("training.encoders.fake")
    module.__spec__ = ModuleSpec(module.__name__, None)
    module.ENCODER = lambda weights, device: Decoder()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    shown = data(made, encoders="somewhere").decode(torch.rand(3, 3, 3, 4, 6))
    assert shown.shape == (3, 3, 9, 32, 48)


class Decoder:
    def decode(self, latents):
        return latents.new_zeros(len(latents), 3, 9, 32, 48)


def edited(cache: Path, **changes) -> Path:
    path = cache / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return cache


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda cache: cache / "gone", {}, r"There is no cache at .*gone\."),
        (lambda cache: (cache / "index.json").unlink(), {}, "is no finished cache, since it has no index.json: run"),
        (
            lambda cache: (cache / "index.json").write_text('{"clips'),
            {},
            "is damaged .*: run training/prepare.py again",
        ),
        (lambda cache: edited(cache, version="9"), {}, r"is of version 9, this trainer reads version 1: prepare"),
        (
            lambda cache: edited(cache, clips=[]),
            {},
            "holds no clips; its summary.txt says why. On prompts alone trains data.source=teacher",
        ),
        (lambda cache: edited(cache, negative=""), {"negative_prompt": True}, "was made without one; run"),
        (lambda cache: None, {"fingerprint": "other"}, "made with another autoencoder or other text encoders: its"),
        (lambda cache: None, {"cash": "x"}, r"Unknown key 'data\.options\.cash'\. Did you mean 'cache'\?"),
    ],
)
def test_a_cache_that_cannot_be_used(cache, spoil, options, message):
    spoilt = spoil(cache)
    with pytest.raises(ConfigError, match=message):
        data(spoilt if isinstance(spoilt, Path) else cache, **options)


def test_a_shard_that_is_missing_is_named_at_the_start(cache):
    (cache / "shards" / "00002.safetensors").unlink()
    with pytest.raises(OSError, match=r"00002\.safetensors cannot be read \(it is missing\): copy the whole cache"):
        data(cache)


def test_a_shard_that_is_damaged_is_named(cache):
    videos = data(cache)
    for path in (cache / "shards").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match=r"\.safetensors cannot be read \(.*\): copy the whole cache again, or remove"):
        for iteration in range(4):
            data(cache).batch(draws(iteration))
    del videos


def test_a_shard_of_another_cache_is_named_at_the_start(cache):
    """Copied in part, or written by two commands at once: its items would be missed in the midst of a training."""
    first, second, *_ = sorted((cache / "shards").iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(OSError, match=r"it lacks \d+ of the \d+ items that index.json tells of.*copy the whole cache"):
        data(cache)


def test_latents_of_several_shapes_in_a_bucket(cache):
    index = json.loads((cache / "index.json").read_text())
    edited(cache, clips=[clip | {"size": [9, 32, 48]} for clip in index["clips"]])
    with pytest.raises(
        ConfigError, match=r"Latents of one bucket are of several shapes: .*\.webp \[3, 3, 6, 4\]\. Prepare"
    ):
        data(cache)


def test_a_cache_of_prompts_alone_serves_the_teachers_paths(cache):
    options = {"cache": str(edited(cache, clips=[]))}
    videos = VideosData(DataConfig(name="videos", source="teacher", options=options))
    assert videos.latent_shape == RULE.latent_shape(RULE.usual) and set(videos.prompts) == set(CAPTIONS)
    edited(cache, shape=[])
    with pytest.raises(ConfigError, match="holds no clips"):
        VideosData(DataConfig(name="videos", source="teacher", options=options))


def test_a_network_trains_on_prepared_clips(tiny, tmp_path):
    """The Shapes world as files: prepared, trained on, and a batch drawn anew by a second trainer is the same."""
    videos, cache = tmp_path / "videos", tmp_path / "shapes"
    videos.mkdir()
    for number, attributes in enumerate(ALL_ATTRIBUTES[::60]):
        frames = to_pixels(render_clip(attributes, torch.Generator().manual_seed(number)))
        write_animation(videos / f"{number}.webp", frames, 125)
        (videos / f"{number}.txt").write_text(attributes.caption())
    encoder = ShapesEncoder(None, torch.device("cpu"))
    rules = ClipRules(sizes=[encoder.size_rule.usual], fps=8.0)
    prepare(Settings(data=videos, output=cache, backbone="shapes", rules=rules), encoder)

    settings = {"name": "videos", "batch_size": 2, "options": {"cache": str(cache)}}
    backbone = {"name": "shapes", "family": "shapes", "architecture": ARCHITECTURE}
    wide = backbone | {"architecture": ARCHITECTURE | {"text_dim": 14}}
    with pytest.raises(ConfigError, match=r"its embedded texts are \d+ wide, and this backbone takes .* width 14"):
        build_trainer(tiny(tmp_path, "teacher", data=settings, backbone=wide))
    prompts = [ALL_ATTRIBUTES[60].caption()]
    validation = {"every": 1, "prompts": prompts, "steps": 2}
    trainer = build_trainer(tiny(tmp_path, "teacher", data=settings, backbone=backbone, validation=validation))
    trainer.run()
    assert trainer.iteration == 2 and any(tmp_path.glob("teacher/**/*.mp4"))
    again = build_trainer(tiny(tmp_path / "again", "teacher", data=settings, backbone=backbone)).method
    batch = trainer.method.data.batch(trainer.method.draws(1))
    assert torch.equal(batch.latents, again.data.batch(again.draws(1)).latents)

    (videos / "0.txt").write_text(ALL_ATTRIBUTES[61].caption())
    prepare(Settings(data=videos, output=cache, backbone="shapes", rules=rules), encoder)
    changed = build_trainer(tiny(tmp_path, "teacher", data=settings, backbone=backbone))
    with pytest.raises(ConfigError, match=r"the data set was 5 clips \(\w+\) and is 5 clips \(\w+\) now\."):
        changed.run()

    with pytest.raises(ConfigError, match="data.name=videos: its clips were prepared for shapes, and backbone.name is"):
        build_trainer(tiny(tmp_path / "wan", "teacher", data=settings, backbone=backbone | {"name": "wan"}))
    validation = validation | {"prompts": ["a cat"]}
    with pytest.raises(ConfigError, match="validation.prompts: 'a cat' is not embedded in"):
        build_trainer(tiny(tmp_path / "cat", "teacher", data=settings, backbone=backbone, validation=validation))
