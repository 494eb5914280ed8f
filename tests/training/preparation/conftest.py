"""A small collection of every kind of file, and preparing it with encoders that are nobody's."""

import numpy as np
import pytest
from harness.clips import moving, truncate, turn, write_animation, write_sound, write_video
from harness.fake_encoder import FakeEncoder
from PIL import Image

from training.data.buckets import buckets
from training.preparation.run import Settings, prepare
from training.preparation.scan import ClipRules


@pytest.fixture
def collection(tmp_path):
    """Eight files that give clips, and one for each reason to drop one."""
    folder = tmp_path / "videos"
    folder.mkdir()

    def captioned(name: str, caption: str | None = ""):
        if caption is not None:
            (folder / name).with_suffix(".txt").write_text(caption or f"this is {name}")
        return folder / name

    write_video(captioned("plain.mp4"), moving(20, seed=1))
    turn(write_video(captioned("phone.mp4"), moving(9, seed=2)), 1)
    write_video(captioned("ten.mp4"), moving(9, seed=3), codec="libx265", pixels="yuv420p10le")
    write_video(captioned("fast.mkv", "this is plain.mp4"), moving(40, seed=4), 30)
    write_animation(captioned("a.webp"), moving(9, seed=5))
    write_animation(captioned("b\n.gif"), moving(9, seed=6), 130)
    Image.fromarray(moving(1, seed=7)[0]).save(captioned("still.png"))
    Image.fromarray(moving(1, 64, 48, seed=8)[0]).save(captioned("upright.jpg"))

    write_video(captioned("uncaptioned.mp4", None), moving(9, seed=9))
    write_video(captioned("unspeakable.mp4", "unspeakable"), moving(9, seed=10))
    (captioned("copy.mp4")).write_bytes((folder / "plain.mp4").read_bytes())
    write_video(captioned("short.mp4"), moving(4, seed=11))
    write_video(captioned("tiny.mp4"), moving(9, 14, 20))
    write_video(captioned("wide.mp4"), moving(9, 32, 256))
    write_video(captioned("black.mp4"), moving(9) // 16)
    write_video(captioned("static.mp4"), moving(1).repeat(9, 0))
    write_sound(captioned("song.mp4"))
    captioned("text.mp4").write_text("this is no video")
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    truncate(write_video(captioned("cut.mp4"), noise, options={"movflags": "faststart"}))
    captioned("latin.mp4").write_bytes((folder / "phone.mp4").read_bytes())
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    return folder


@pytest.fixture
def run(tmp_path):
    """Prepares a collection: ``run(data, encoder, **settings)`` gives the summary; the cache is ``tmp_path/cache``."""

    def run(data, encoder=None, rules=None, **settings):
        encoder = encoder or FakeEncoder()
        rule = encoder.size_rule
        sizes = buckets(rule, [rule.usual.frames, 1], rule.usual.height, rule.usual.width, rule.tokens(rule.usual))
        rules = ClipRules(**({"sizes": sizes, "fps": rule.fps} | (rules or {})))
        values = {"output": tmp_path / "cache", "backbone": "fake", "rules": rules} | settings
        return prepare(Settings(data=data, **values), encoder)

    return run
