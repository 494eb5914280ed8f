"""The small corpus: which animations are taken from the packages, and what their captions are."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from zipfile import ZipFile

import pytest
from harness.hosts import ROOT
from PIL import Image

PROMPT = "A panda plays the guitar by\na quiet lake"


@pytest.fixture(scope="module")
def corpus():
    spec = importlib.util.spec_from_file_location("corpus", ROOT / "scripts" / "corpus.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def animation(frames: int) -> bytes:
    pictures = [Image.new("RGB", (8, 8), (8 * number, 0, 0)) for number in range(frames)]
    held = io.BytesIO()
    pictures[0].save(held, "webp", save_all=True, append_images=pictures[1:], duration=60)
    return held.getvalue()


def node(text: str, kind: str = "CLIPTextEncode", **more) -> dict:
    return {"type": kind, "widgets_values": [text, 7], **more}


def test_long_animations_are_taken_with_the_prompt_of_their_template(corpus, tmp_path, monkeypatch, capsys):
    workflow = {
        "nodes": [
            node("A longer note on how this template is to be used by whoever opens it", "MarkdownNote"),
            node("ugly hands and many other things that nobody wants to see", title="Negative Prompt"),
            node("static, worst quality, and many other things that nobody wants to see at all"),
            node('[{"x": 1}, {"y": 2}, {"x": 1}, {"y": 2}, {"x": 1}, {"y": 2}, {"x": 1}, {"y": 2}]'),
            {"type": "Empty", "widgets_values": None},
        ],
        "definitions": {"subgraphs": [{"nodes": [{"type": "Api", "widgets_values": {"prompt": PROMPT}}]}]},
    }
    with ZipFile(tmp_path / "media.whl", "w") as media:
        media.writestr("templates/panda-1.webp", animation(24))
        media.writestr("templates/panda-2.webp", animation(5))
        media.writestr("templates/unknown-1.webp", animation(24))
        media.writestr("templates/__init__.py", "")
    with ZipFile(tmp_path / "json.whl", "w") as templates:
        templates.writestr("templates/panda.json", json.dumps(workflow))
    monkeypatch.setattr(corpus, "download", lambda folder: [tmp_path / "media.whl", tmp_path / "json.whl"])
    corpus.main(tmp_path)
    videos = tmp_path / "videos"
    assert sorted(file.name for file in videos.iterdir()) == ["panda-1.txt", "panda-1.webp", "unknown-1.webp"]
    assert (videos / "panda-1.txt").read_text("utf-8") == "A panda plays the guitar by a quiet lake"
    assert capsys.readouterr().out.startswith(f"2 clips, 1 with captions, in {videos}")


def test_the_packages_are_pinned_by_their_hashes_and_listed_with_their_licences(corpus):
    pinned = re.findall(r"^([\w-]+==[\d.]+) --hash=sha256:[0-9a-f]{64}$", corpus.PACKAGES.read_text("utf-8"), re.M)
    page = (ROOT / "docs" / "corpus.md").read_text("utf-8")
    assert re.findall(r"^\| \[`([\w-]+==[\d.]+)`\]", page, re.M) == pinned and len(pinned) == 4
