"""A run of the tests says at its end what it has left out and what that needs, one line for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.hosts import ROOT


def run(tmp_path: Path, *arguments: str, **environment: str) -> list[str]:
    """The lines that pytest ends with, on a machine without a ComfyUI, a browser or a GPU."""
    hidden = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COMFYUI_PATH", "COMFYUI_PYTHON", "DCM_HOSTS", "CHROMIUM")
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-q", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=kept | hidden | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def told(lines: list[str]) -> list[str]:
    (start,) = [number for number, line in enumerate(lines) if "skipped, and what it needs" in line]
    return [line for line in lines[start + 1 :] if line]


def test_what_is_skipped_without_a_comfyui_a_browser_and_a_gpu(tmp_path):
    said = told(run(tmp_path, "tests/host", "tests/browser", "tests/dcm_core/expert/test_sidecar_hosts.py"))
    assert len(said) == 4 and all(line.split()[0].isdigit() for line in said), said
    (hosts,), (browser,), (page,), (gpu,) = (
        [line for line in said if f": {words}" in line and ("browser" in line) is ("browser" in place)]
        for place, words in (
            ("host", "no ComfyUI"),
            ("browser", "no ComfyUI"),
            ("browser alone", "no browser"),
            ("gpu", "no GPU"),
        )
    )
    assert int(hosts.split()[0]) > 100 and "set COMFYUI_PATH" in hosts and "make hosts" in hosts
    assert "no browser: missing Chromium" in browser and "Node.js" in browser
    assert "missing Chromium" in page and "CUDA" in gpu


def test_a_comfyui_without_its_environment_is_named(tmp_path):
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    for name, text in {
        "main.py": "",
        "comfy/__init__.py": "",
        "requirements.txt": "torch\n",
        "comfyui_version.py": '__version__ = "0.33.0"\n',
    }.items():
        (folder / name).write_text(text, "utf-8")
    said = told(run(tmp_path, "tests/host/test_only_read.py", COMFYUI_PATH=str(folder)))
    assert said == [f"1 test: the ComfyUI in {folder} has no environment yet: run `make hosts`"]


def test_nothing_is_said_where_nothing_was_skipped(tmp_path):
    assert not [line for line in run(tmp_path, "tests/dcm_core/files/test_zeros.py") if "skipped, and what" in line]
