"""A ComfyUI server of our own, with this pack and the test nodes; all it writes stays in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .hosts import ROOT, TESTS, Host, host_environment

PACK = "dcm-video"
START_SECONDS = 900  # on a busy machine; one that ends while it starts is noticed at once


class HostServer:
    """Runs between `start` and `stop`; `base` holds models/, output/ and custom_nodes/."""

    def __init__(self, host: Host, base: Path):
        self.host, self.base, self.log = host, base, base / "server.log"
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def models(self) -> Path:
        return self.base / "models"

    def start(self) -> None:
        """Raises RuntimeError with the end of the server's log when it does not come up."""
        for folder in ("custom_nodes", "input", "output", "user", "models"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        link(ROOT, self.base / "custom_nodes" / PACK)
        link(TESTS / "host" / "testpack", self.base / "custom_nodes" / "dcm-testpack")
        command = [str(self.host.python), str(self.host.folder / "main.py"), "--cpu"]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"]
        command += ["--preview-method", "latent2rgb", "--disable-api-nodes"]
        command += ["--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.base, stdout=log, stderr=subprocess.STDOUT, env=host_environment()
            )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://{self.address}/system_stats", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])
        self.stop()
        raise RuntimeError(f"ComfyUI {self.host.version} did not start:\n{tail}")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link(source: Path, target: Path) -> None:
    """A symbolic link, or a copy where the system does not allow one."""
    try:
        os.symlink(source, target, target_is_directory=True)
    except OSError:
        unneeded = shutil.ignore_patterns(".git", ".venv", "node_modules", "runs", "__pycache__")
        shutil.copytree(source, target, ignore=unneeded)
