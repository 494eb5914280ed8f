"""Pages in a headless Chromium, driven by the scripts in tests/browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from .hosts import TESTS, load_script

_script = load_script("browser")

SIZES = [(1920, 1000), (1440, 900), (1366, 768)]


def missing() -> list[str]:
    """What the browser tests lack on this machine."""
    return _script.missing()


def drop_workflows(
    address: str, files: list[Path], run: list[str], screenshots: Path, pictures: bool = False
) -> dict[str, dict]:
    """Drops each file on the page and presses Run for those named in `run`.

    file stem -> `missing` (unknown node types), `types`, `alerts` (what the page complained about), `prompt` (API
    format), for those that ran `heard` (their last events), `shown` (texts on their nodes) and `after` (boxes, groups
    and links with what the nodes show), and `layouts` (canvas -> the same before, and the views at `SIZES`).
    Screenshots go to `screenshots`; with `pictures` also those at each size.
    """
    files = [str(file) for file in files]
    job = {"files": files, "run": run, "screenshots": str(screenshots), "sizes": SIZES, "pictures": pictures}
    return _driven("page.mjs", address=address, **job)


def look_at_nodes(address: str, file: Path, modern: bool) -> dict:
    """Opens and runs a workflow, on the canvas of DOM elements if `modern`; see nodes.mjs for what was seen."""
    return _driven("nodes.mjs", address=address, file=str(file), modern=modern)


def draw_nodes(address: str, files: list[Path], folder: Path) -> list[str]:
    """Takes a picture `folder/NODE.png` of each of the pack's nodes, after a run for those in `files`: their names."""
    return _driven("pictures.mjs", address=address, files=[str(file) for file in files], folder=str(folder))


def vote(file: Path, folder: Path) -> dict:
    """Votes on an A/B page and downloads the votes; what was seen on the way. Pictures go to `folder`."""
    return _driven("ab.mjs", file=str(file), folder=str(folder))


def _driven(script: str, **job: object):
    """What a script of tests/browser says of its job."""
    job["browser"] = _script.find_chromium()
    command = [shutil.which("node"), str(TESTS / "browser" / script), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
