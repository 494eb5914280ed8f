"""The host's page in a headless Chromium, driven by tests/browser/page.mjs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from .hosts import TESTS, load_script

_script = load_script("browser")


def missing() -> list[str]:
    """What the browser tests lack on this machine."""
    return _script.missing()


def drop_workflows(address: str, files: list[Path], run: list[str], screenshots: Path) -> dict[str, dict]:
    """Drops each file on the page and presses Run for those named in `run`.

    file stem -> `missing` (unknown node types), `types`, `alerts` (what the page complained about), `prompt` (API
    format) and for those that ran `heard` (their last events). Screenshots go to `screenshots`.
    """
    job = {
        "address": address,
        "browser": _script.find_chromium(),
        "files": [str(file) for file in files],
        "run": run,
        "screenshots": str(screenshots),
    }
    command = [shutil.which("node"), str(TESTS / "browser" / "page.mjs"), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
