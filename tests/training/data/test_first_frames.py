"""Image to video: clips with their first frames, prompts with pictures, and what does not fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness.clips import moving, write_animation
from harness.fake_encoder import RULE, FakeEncoder, FakeImageEncoder
from harness.tiny_backbones import BACKBONES, Noise
from PIL import Image

from training.backbones.base import check_first_frames
from training.config import DataConfig
from training.data.buckets import Size
from training.data.paths import PathCache, Plan, Recipe
from training.data.teacher_paths import TeacherPaths
from training.data.videos import VideosData
from training.errors import ConfigError
from training.preparation.manifest import Entry, read_collection
from training.preparation.run import Settings, prepare
from training.preparation.scan import ClipRules
from training.preparation.summary import Summary
from training.run.draws import Draws

RULES = ClipRules(sizes=[RULE.usual, Size(9, 48, 32)], fps=8.0)
COLOURS = {"red": (255, 0, 0), "dim": (90, 90, 90), "blue": (0, 0, 255)}


def pictures(folder: Path) -> tuple[Entry, ...]:
    """Three of one colour each and a broken one; two have the same caption."""
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (48, 32), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a wall" if name != "dim" else "fog")
    (folder / "torn.png").write_bytes(b"no picture")
    (folder / "torn.txt").write_text("torn")
    return tuple(read_collection(folder)[0])


def videos(folder: Path) -> Path:
    """Three across and one upright, of which two have the same caption."""
    folder.mkdir()
    for number, caption in enumerate(("a kite", "a kite", "two dogs", "rain")):
        height, width = (48, 32) if number == 3 else (32, 48)
        write_animation(folder / f"{number}.webp", moving(9, height, width, seed=number))
        (folder / f"{number}.txt").write_text(caption)
    return folder


def prepared(cache: Path, encoder: FakeEncoder | None = None, **settings) -> Summary:
    values = {"data": None, "output": cache, "backbone": "fake", "rules": RULES, **settings}
    return prepare(Settings(**values), encoder or FakeImageEncoder())


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Of videos, and of prompts with pictures."""
    folder = tmp_path_factory.mktemp("images")
    prepared(folder / "cache", data=videos(folder / "videos"), pictures=pictures(folder / "pictures"))
    return folder / "cache"


def data(cache: Path, **settings) -> VideosData:
    return VideosData(DataConfig(name="videos", **{"batch_size": 1, "options": {"cache": str(cache)}, **settings}))


def colour(conditions) -> list[float]:
    """Of the first frame that the first sample is told."""
    return conditions.image[0].mean((1, 2, 3)).tolist()


def test_a_clip_comes_with_its_own_first_frame(cache):
    clips = data(cache, text_dropout=0.5)
    for iteration in range(8):
        batch = clips.batch(Draws.of(5, iteration, 1))
        shown = {number: clips.latents(number) for number in range(4)}
        (number,) = (n for n, latents in shown.items() if torch.equal(latents, batch.latents[0]))
        height, width = (48, 32) if number == 3 else (32, 48)
        first = torch.from_numpy(moving(9, height, width, seed=number)[0]).permute(2, 0, 1)
        wanted = FakeImageEncoder().first_frame(first, 9)
        assert batch.conditions.image[0].shape[1:] == batch.latents[0].shape[1:]
        assert torch.allclose(batch.conditions.image[0], wanted["image"], atol=2)
        assert torch.allclose(batch.conditions.vision[0], wanted["vision"], atol=2)


def test_prompts_are_those_with_a_first_frame_of_the_usual_size(cache):
    """Where a caption comes again, the file stands beside it; the upright clip has another size."""
    clips = data(cache)
    assert clips.prompts == ["a kite", "a kite (1.webp)", "a wall", "a wall (red.png)", "fog", "two dogs"]
    for prompt, name in {"a wall": "blue", "fog": "dim", "a wall (red.png)": "red"}.items():
        assert colour(clips.conditions([prompt])) == list(COLOURS[name])
    told = clips.conditions(["a wall", "a wall (red.png)"])
    assert torch.equal(told.text[0], told.text[1]) and not torch.equal(told.image[0], told.image[1])
    assert told.image.shape[2:] == clips.latent_shape[1:]
    for prompt in ("rain", "a cat", ""):
        with pytest.raises(ValueError, match=f"'{prompt}' has no first frame of the usual size in .* --prompts TABLE"):
            clips.conditions(["fog", prompt])


def test_guidance_and_dropped_captions_leave_the_first_frame(cache):
    clips = data(cache)
    told = clips.conditions(["fog", "two dogs"])
    other, dropped = clips.unconditional(told), clips.conditions(["fog", "two dogs"], dropped=[1])
    assert torch.equal(other.image, told.image) and torch.equal(other.vision, told.vision)
    assert torch.equal(dropped.image, told.image) and torch.equal(dropped.pooled[0], told.pooled[0])
    assert torch.equal(dropped.pooled[1], other.pooled[1]) and not torch.equal(dropped.pooled[1], told.pooled[1])


def test_prompts_and_pictures_alone_serve_the_teachers_paths(tmp_path):
    summary = prepared(tmp_path / "cache", pictures=pictures(tmp_path / "pictures"))
    assert [(each.source, each.reason) for each in summary.dropped] == [("torn.png", "unreadable")]
    prompts = data(tmp_path / "cache", source="teacher")
    assert prompts.prompts == ["a wall", "a wall (red.png)", "fog"]
    assert prompts.latent_shape == RULE.latent_shape(RULE.usual)

    recipe = Recipe("", 1.0, None, "", "", list(prompts.latent_shape))
    plan = Plan(recipe, [1.0, 0.0], [0.0], 0, "path", 3, 3, list(prompts.prompts))
    paths = PathCache.begin(tmp_path / "paths", plan)
    paths.write(0, torch.zeros(3, 1, *prompts.latent_shape))
    trained = TeacherPaths(prompts, paths, text_dropout=1.0, count=len(paths))
    assert trained.told_of_image == {"image", "vision"}
    batch = trained.batch(Draws.of(0, 0, 3))
    asked = plan.captions(trained.numbers(Draws.of(0, 0, 3)))
    assert torch.equal(batch.conditions.image, prompts.conditions(asked).image)
    assert torch.equal(batch.conditions.pooled, prompts.unconditional(batch.conditions).pooled)


def test_paths_that_began_with_other_first_frames_are_refused(tmp_path):
    """The same prompts beside other pictures, which took the place of the former."""
    shown = pictures(tmp_path / "pictures")
    prepared(tmp_path / "cache", pictures=shown)
    before = data(tmp_path / "cache", source="teacher")
    made = Recipe("", 1.0, None, "", "", [], frames=before.frames_of(before.prompts))
    Image.new("RGB", (48, 32), (0, 255, 0)).save(tmp_path / "pictures" / "dim.png")
    prepared(tmp_path / "cache", pictures=shown)
    after = data(tmp_path / "cache", source="teacher")
    assert after.prompts == before.prompts and after.frames_of(["a wall"]) == before.frames_of(["a wall"])
    made.check(made, tmp_path)
    with pytest.raises(ConfigError, match="were made with other first frames of its prompts. Set the former"):
        made.check(replace(made, frames=after.frames_of(after.prompts)), tmp_path)


def test_no_first_frame_is_made_twice(cache, tmp_path):
    folder = cache.parent
    again, settings = FakeImageEncoder(), {"data": folder / "videos"}
    entries = tuple(read_collection(folder / "pictures")[0])
    whole = (cache / "index.json").read_bytes()
    prepared(cache, again, pictures=entries, **settings)
    assert again.framed == again.encoded == again.embedded == 0 and (cache / "index.json").read_bytes() == whole
    twice = (*entries, replace(entries[0], caption="another"))
    prepared(cache, again, pictures=twice, **settings)
    assert (again.framed, again.embedded) == (0, 1) and "another" in data(cache).prompts
    prepared(cache, pictures=entries, **settings)
    prepared(tmp_path / "cache", again, pictures=twice)
    assert again.framed == 3


def test_without_a_picture_that_can_be_used_there_is_nothing_to_prepare(tmp_path):
    torn = [entry for entry in pictures(tmp_path / "pictures") if entry.source == "torn.png"]
    with pytest.raises(ConfigError, match="--prompts: none of its first frames can be used: "):
        prepared(tmp_path / "cache", pictures=tuple(torn))


def test_a_cache_without_first_frames_does_not_go_on_as_one_with_them(tmp_path):
    folder = videos(tmp_path / "videos")
    prepared(tmp_path / "cache", FakeEncoder(), data=folder)
    assert data(tmp_path / "cache").told_of_image == frozenset()
    with pytest.raises(
        ConfigError, match="made with another autoencoder or other encoders of texts and images: choose"
    ):
        prepared(tmp_path / "cache", FakeImageEncoder(), data=folder)


@pytest.mark.parametrize(
    ("backbone", "clips", "message"),
    [
        ("wan i2v", "wan t2v", "makes videos of an image, and the data set has no first frames: .* --image-to-video"),
        ("wan 2.2 i2v", "wan t2v", "makes videos of an image, and the data set has no first frames"),
        ("wan t2v", "wan 2.2 i2v", "was prepared with --image-to-video, and this backbone makes videos of text alone"),
        ("wan i2v", "wan 2.2 i2v", "sees the first frame through CLIP, and the data set was prepared for one that"),
        ("wan 2.2 i2v", "wan i2v", "is not told what CLIP sees, and the data set was prepared for one that"),
    ],
)
def test_first_frames_and_a_backbone_that_do_not_go_together_are_refused(backbone, clips, message):
    with pytest.raises(ConfigError, match=message):
        check_first_frames(BACKBONES[backbone].backbone(), Noise(BACKBONES[clips]))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_and_its_own_data_go_together(name):
    check_first_frames(BACKBONES[name].backbone(), Noise(BACKBONES[name]))
