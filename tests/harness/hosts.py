"""Which ComfyUI the tests use, and with which Python: the same answers as `make hosts` gives."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"


def load_script(name: str):
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"dcm_{name}_script", ROOT / "scripts" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


_script = load_script("hosts")


@dataclass(frozen=True)
class Host:
    """One ComfyUI: its folder, its version, and the Python that runs it (None before `make hosts`)."""

    folder: Path
    version: str
    python: Path | None

    def environment(self) -> dict[str, str]:
        """Of its Python, with the host and the test helpers importable."""
        return host_environment() | {"PYTHONPATH": f"{self.folder}{os.pathsep}{TESTS}"}

    def run(self, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
        """Runs the host's Python; its output is captured."""
        return subprocess.run(
            [str(self.python), *arguments],
            env=self.environment() | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def find_hosts() -> list[Host]:
    folders = _script.find_hosts()
    return [Host(folder, _script.host_version(folder), _script.host_python(folder)) for folder in folders]


def host_environment() -> dict[str, str]:
    """One thread, since tiny networks are slower on more; no questions to outside; nothing beside the host's files."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": str(_script.hosts_folder() / "pycache"),
    }
