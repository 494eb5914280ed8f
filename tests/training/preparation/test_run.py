"""From a collection to a cache: what is in it, what is left out and why, and that nothing is done twice."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from harness.clips import moving, write_video
from harness.fake_encoder import RULE, FakeEncoder
from PIL import Image

from training.data.buckets import Size
from training.data.cache import CachedTensors, read_index
from training.errors import ConfigError
from training.preparation import clips as clips_module
from training.preparation import run as run_module
from training.preparation.write import ShardWriter

GOOD = {"a.webp", r"b\n.gif", "fast.mkv", "phone.mp4", "plain.mp4", "still.png", "ten.mp4", "upright.jpg"}
DROPPED = {
    "uncaptioned.mp4": "no caption", "unspeakable.mp4": "bad caption", "latin.mp4": "bad caption",
    "plain.mp4": "duplicate", "short.mp4": "too short", "tiny.mp4": "too small", "wide.mp4": "aspect",
    "black.mp4": "black", "static.mp4": "static", "song.mp4": "no picture", "text.mp4": "unreadable",
    "cut.mp4": "truncated",
}  # fmt: skip


def content(folder):
    """All files of a cache but the picture, which is made anew."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_collection_of_every_kind(collection, run, tmp_path):
    summary = run(collection, negative="blurry", prompts=("a new prompt",), workers=2)
    index = read_index(tmp_path / "cache")
    # the copy comes first by name
    assert {clip.source for clip in index.clips} == GOOD - {"plain.mp4"} | {"copy.mp4"}
    assert {each.source: each.reason for each in summary.dropped} == DROPPED
    assert index.backbone == "fake" and index.negative == "blurry"
    assert set(index.texts) == {clip.caption for clip in index.clips} | {"", "blurry", "a new prompt"}
    assert {clip.size for clip in index.clips if clip.source == "phone.mp4"} == {Size(9, 48, 32)}
    tensors = CachedTensors(tmp_path / "cache", index.shards)
    for clip in index.clips:
        assert tuple(tensors.read(clip.latents)["latents"].shape) == RULE.latent_shape(clip.size)
        text = tensors.read(clip.text)
        assert text["text"].shape == (1 + len(clip.caption.split()), 6) and text["pooled"].shape == (5,)


def test_latents_are_those_of_the_pixels(run, tmp_path):
    """A picture that needs neither scaling nor cutting, through the whole way."""
    frames = moving(9, 32, 48)
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, frame in enumerate(frames[:1]):
        Image.fromarray(frame).save(folder / f"{number}.png")
    run(folder, caption="x")
    index = read_index(tmp_path / "cache")
    kept = CachedTensors(tmp_path / "cache", index.shards).read(index.clips[0].latents)["latents"]
    assert torch.equal(kept, FakeEncoder().latents(torch.from_numpy(frames[:1]).permute(3, 0, 1, 2)[None])[0])


def test_the_summary_for_the_eye_and_as_json(collection, run, tmp_path):
    summary = run(collection)
    told = json.loads((tmp_path / "cache" / "summary.json").read_text())
    assert told["clips"] == 8 and told["files"] == 20 and told["captions"] == 8
    assert told["hours"] == pytest.approx(6 * 9 / 8 / 3600, abs=1e-4)
    assert told["buckets"] == {"48x32x9": 5, "32x48x9": 1, "48x32x1": 1, "32x48x1": 1}
    assert Counter(each["reason"] for each in told["dropped"]) == Counter(DROPPED.values())
    text = summary.text()
    assert text.startswith("20 files: 6 clips (6.75 s) and 2 images, 8 captions and 0 prompts embedded\n")
    assert "\n              size  clips\n           32x48x9  1\n" in text
    assert "  duplicate: 1\n    plain.mp4: it is the same as copy.mp4" in text
    assert (tmp_path / "cache" / "summary.txt").read_text() == text + "\n"
    picture = Image.open(tmp_path / "cache" / "contact_sheet.jpg")
    assert picture.width > 3 * 240 and picture.height > 8 * 160


def test_a_dry_run_does_all_but_encode(collection, run, tmp_path):
    encoder = FakeEncoder()
    summary = run(collection, encoder, dry_run=True, prompts=("one prompt", "another"))
    assert " 9 captions and 2 prompts to embed\n" in summary.text()
    assert encoder.encoded == encoder.embedded == 0
    assert not list((tmp_path / "cache" / "shards").iterdir()) and not (tmp_path / "cache" / "index.json").exists()
    seen = {each.source: each.reason for each in summary.dropped}
    assert seen == {source: reason for source, reason in DROPPED.items() if source != "unspeakable.mp4"}
    assert (tmp_path / "cache" / "summary.json").exists() and (tmp_path / "cache" / "contact_sheet.jpg").exists()


def test_a_dry_run_shows_what_a_run_shows_and_scales_no_more(run, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "moving.mp4", moving(9))
    scaled, fitted = [], clips_module.fitted
    monkeypatch.setattr(clips_module, "fitted", lambda *arguments: scaled.append(1) or fitted(*arguments))
    sheets = []
    for dry, frames in ((True, 4), (False, 9)):  # the first two tell that it moves; the middle and the last are shown
        scaled.clear()
        run(folder, caption="x", output=tmp_path / str(dry), dry_run=dry)
        assert len(scaled) == frames
        sheets.append((tmp_path / str(dry) / "contact_sheet.jpg").read_bytes())
    assert sheets[0] == sheets[1]


def test_nothing_is_encoded_twice_and_new_files_are_added(collection, run, tmp_path):
    run(collection)
    before = content(tmp_path / "cache")
    again = FakeEncoder()
    run(collection, again)
    assert again.encoded == again.embedded == 0 and content(tmp_path / "cache") == before
    write_video(collection / "new.mp4", moving(9, seed=20))
    (collection / "new.txt").write_text("something new")
    run(collection, again)
    assert (again.encoded, again.embedded) == (1, 1)
    assert len(read_index(tmp_path / "cache").clips) == 9


def test_a_renamed_file_is_not_lost_and_a_new_caption_encodes_no_video(collection, run, tmp_path):
    run(collection)
    for kind in (".mp4", ".txt"):
        (collection / f"phone{kind}").rename(collection / f"sub{kind}")
    (collection / "ten.txt").write_text("another caption")
    again = FakeEncoder()
    run(collection, again)
    assert (again.encoded, again.embedded) == (0, 1)
    captions = {clip.source: clip.caption for clip in read_index(tmp_path / "cache").clips}
    assert captions["sub.mp4"] == "this is phone.mp4" and captions["ten.mp4"] == "another caption"
    assert "phone.mp4" not in captions


def test_other_clips_of_the_same_files_are_encoded(collection, run, tmp_path):
    encoder = FakeEncoder()
    run(collection, encoder)
    first = encoder.encoded
    run(collection, encoder, rules={"mode": "chunk"})
    index = read_index(tmp_path / "cache")
    assert encoder.encoded == first + 1  # the 20 frames of plain.mp4 hold a second clip
    assert sorted(clip.begin for clip in index.clips if clip.source == "copy.mp4") == [0, 9]


def test_what_was_kept_once_is_left_out_when_it_is_not_to_be_kept(collection, run):
    """A cache of all clips, then one without those that show nothing, and of all again: nothing is encoded twice."""

    def sources():
        return {clip.source for clip in read_index(cache).clips} & {"black.mp4", "static.mp4"}

    cache, encoder = collection.parent / "cache", FakeEncoder()
    run(collection, encoder, static=False)
    assert sources() == {"static.mp4"}
    run(collection, encoder, static=False, black=False)
    assert sources() == {"static.mp4", "black.mp4"}
    encoded = encoder.encoded
    summary = run(collection, encoder)
    assert not sources() and {each.reason for each in summary.dropped} >= {"black", "static"}
    run(collection, encoder, static=False, black=False)
    assert sources() == {"static.mp4", "black.mp4"} and encoder.encoded == encoded


def test_workers_change_nothing(collection, run, tmp_path):
    run(collection, output=tmp_path / "one")
    run(collection, output=tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [1, 5, 10, 14, 18])
def test_a_run_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(collection, run, tmp_path, monkeypatch, moment):
    """After so many items, texts and clips alike; a shard holds up to three."""
    run(collection, output=tmp_path / "whole", shard_bytes=400)
    assert len(list((tmp_path / "whole" / "shards").iterdir())) > 4
    add, added = ShardWriter.add, []

    def until(writer, item, tensors):
        added.append(item)
        if len(added) == moment:
            raise Killed
        add(writer, item, tensors)

    monkeypatch.setattr(ShardWriter, "add", until)
    with pytest.raises(Killed):
        run(collection, output=tmp_path / "stopped", shard_bytes=400)
    assert not (tmp_path / "stopped" / "index.json").exists()
    (tmp_path / "stopped" / "shards").mkdir(parents=True, exist_ok=True)
    (tmp_path / "stopped" / "shards" / ".00001.safetensors.0123.tmp").write_bytes(b"half")
    encoder = FakeEncoder()
    run(collection, encoder, output=tmp_path / "stopped", shard_bytes=400)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")
    assert encoder.encoded + encoder.embedded <= 19 - moment + 3


def test_too_little_disk_is_said_before_the_first_clip(collection, run, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    encoder = FakeEncoder()
    with pytest.raises(OSError, match=r"The latents need up to 0\.00 GB, and only 0\.00 GB are free at .*: free some"):
        run(collection, encoder)
    assert encoder.encoded == encoder.embedded == 0


def test_a_read_only_output_is_said_before_anything_is_read(collection, run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "read_collection", lambda *_: pytest.fail("the collection was read"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"Nothing can be written into .*: choose another --output"):
        run(collection, output=tmp_path / "file" / "cache")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("training.output.Path.mkdir", refuse)
    with pytest.raises(OSError, match=r"Nothing can be written into .* \(Permission denied\): choose another --output"):
        run(collection)


def test_a_cache_beside_the_videos_themselves_is_refused_and_one_inside_is_not(collection, run):
    with pytest.raises(ConfigError, match="--output is the folder of the videos themselves: name another"):
        run(collection, output=collection)
    first = run(collection, output=collection / "cache")
    assert len(run(collection, output=collection / "cache").clips) == len(first.clips) == 8


def test_a_cache_of_other_encoders_is_not_mixed_with(collection, run):
    run(collection)
    with pytest.raises(
        ConfigError, match="was made with another autoencoder or other encoders of texts and images: choose another"
    ):
        run(collection, FakeEncoder("another"))


def test_a_damaged_shard_is_named(collection, run, tmp_path):
    run(collection)
    shard = tmp_path / "cache" / "shards" / "00001.safetensors"
    whole = content(tmp_path / "cache")
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"00001\.safetensors .*cut off.* Remove it and run the same command again"):
        run(collection)
    shard.unlink()
    run(collection)
    assert content(tmp_path / "cache") == whole


def test_an_autoencoder_of_another_backbone_is_named(collection, run):
    encoder = FakeEncoder()
    encoder.latents = lambda frames: torch.zeros(1, 48, 3, 4, 6)
    with pytest.raises(ConfigError, match=r"makes latents \[48, 3, 4, 6\] of clips .* belongs to another backbone"):
        run(collection, encoder)


def test_latents_that_are_not_finite_are_not_kept(collection, run, tmp_path):
    encoder = FakeEncoder()
    encoder.latents = lambda frames: FakeEncoder().latents(frames) / 0
    with pytest.raises(FloatingPointError, match="of a.webp are not finite"):
        run(collection, encoder)


@pytest.mark.parametrize("setting", [{"negative": "unspeakable"}, {"prompts": ("unspeakable",)}])
def test_a_prompt_that_cannot_be_embedded_is_named(collection, run, setting):
    option = "--prompts" if "prompts" in setting else "--negative-prompt"
    with pytest.raises(ConfigError, match=f"{option}: there is no word for it"):
        run(collection, **setting)


def test_a_file_that_vanishes_while_the_run_goes_on_is_dropped(collection, run, monkeypatch):
    plan = run_module.plan

    def planned(*arguments):
        found = plan(*arguments)
        (collection / "phone.mp4").unlink()
        return found

    monkeypatch.setattr(run_module, "plan", planned)
    assert "phone.mp4" in {each.source for each in run(collection).dropped if each.reason == "unreadable"}


def test_pixels_are_not_kept_when_they_are_encoded(run, tmp_path, monkeypatch):
    """Memory stays the same however many clips there are: of decoded clips one is alive at a time."""
    import gc
    import weakref

    folder = tmp_path / "videos"
    folder.mkdir()
    for seed in range(6):
        write_video(folder / f"{seed}.mp4", moving(9, seed=seed))
    alive, most, decoded = weakref.WeakSet(), [], run_module.decoded

    class Pixels(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def counted(clip, **options):
        pixels = decoded(clip, **options).view(Pixels)
        alive.add(pixels)
        gc.collect()
        most.append(len(alive))
        return pixels

    monkeypatch.setattr(run_module, "decoded", counted)
    run(folder, caption="x")
    assert len(most) == 6 and max(most) <= 2
