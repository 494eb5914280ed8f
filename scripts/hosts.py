"""Give every ComfyUI on this machine an environment of its own, so that the host tests can start it.

    python scripts/hosts.py

Looks at each folder of COMFYUI_PATH (separated like PATH), or else at ~/comfy/ComfyUI and ~/comfy/hosts/*,
and makes an environment for it from its own requirements.txt. That is the project's own, in
~/.cache/dcm-video/hosts/<version of ComfyUI>: the ComfyUI and its environments are only read. A checkout between
two releases, which calls itself by the older one but wants other packages, gets one beside that. Safe to repeat: a
stamp in the environment tells whether anything it was made from has changed.

    DCM_HOSTS        another folder for the environments
    TORCH            what to install as torch (default torch==2.13.0)
    PIP_ARGS         further arguments for pip, e.g. --extra-index-url https://download.pytorch.org/whl/cpu
    COMFYUI_PYTHON   a Python that can run ComfyUI already; then nothing is installed
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

TORCH = "torch==2.13.0"
STAMP = "dcm-host.stamp"
MADE_FROM = "dcm-host.requirements.txt"  # in an environment: the requirements of the host it was made for
# 0.3.64 uses requests without asking for it; pytest runs the tests that live inside the host's process.
EXTRA = ["requests", "pytest"]
TORCH_FAMILY = re.compile(r"^(torch|torchvision|torchaudio)\b(?!-)")

# torchvision's CUDA build registers its operators from a library that does not load beside a CPU build of
# torch, and its import fails on the missing schemas. The host only needs the import: declare the schemas.
SHIM = '''"""Declares torchvision's operator schemas, so that its CUDA build imports beside a CPU torch."""
import importlib.abc
import sys


class _Schemas(importlib.abc.MetaPathFinder):
    """Acts at the first import of torchvision, so that programs without it do not pay for importing torch."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules[__name__].library = library  # the schemas live as long as this object
        return None


sys.meta_path.insert(0, _Schemas())
'''


def find_hosts() -> list[Path]:
    """The ComfyUI folders named in COMFYUI_PATH, or those in the usual places; each holds a main.py."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folders = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
        for folder in folders:
            if not is_host(folder):
                raise FileNotFoundError(
                    f"COMFYUI_PATH names {folder}, which holds no ComfyUI: no main.py "
                    "beside a comfy folder. Name the folder that holds main.py."
                )
    else:
        comfy = Path.home() / "comfy"
        folders = [comfy / "ComfyUI", *sorted((comfy / "hosts").glob("*"))]
    return [folder.resolve() for folder in folders if is_host(folder)]


def is_host(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def host_version(host: Path) -> str:
    """The ComfyUI version as its own version file states it."""
    file = host / "comfyui_version.py"
    found = re.search(r'__version__ = "([\w.+-]+)"', file.read_text("utf-8") if file.is_file() else "")
    return found.group(1) if found else "unknown"


def host_python(host: Path) -> Path | None:
    """The interpreter that runs this host: COMFYUI_PYTHON, or that of its finished environment, or None."""
    if os.environ.get("COMFYUI_PYTHON"):
        return Path(os.environ["COMFYUI_PYTHON"])
    folder = environment_folder(host)
    python = venv_python(folder)
    return python if python.exists() and (folder / STAMP).exists() else None


def hosts_folder() -> Path:
    """Where the environments are: DCM_HOSTS, or the project's part of the user's cache."""
    named = os.environ.get("DCM_HOSTS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "dcm-video" / "hosts"


def environment_folder(host: Path) -> Path:
    """Where this host's environment is or will be: by version, so that every clone of the project finds it again.

    An environment that was made for another checkout of this version, with other requirements, stays as it is: this
    one's name then tells its requirements too.
    """
    folder, requirements = hosts_folder() / host_version(host), requirements_of(host)
    made_from = folder / MADE_FROM
    if not made_from.is_file() or made_from.read_text("utf-8") == requirements:
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(requirements.encode()).hexdigest()[:8]}")


def requirements_of(host: Path) -> str:
    return (host / "requirements.txt").read_text("utf-8")


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def inputs_digest(host: Path, torch: str, pip_args: str) -> str:
    """A hash of everything the environment is made from."""
    inputs = [requirements_of(host), torch, pip_args, sys.version, SHIM, *EXTRA]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()


class Environment:
    """A host's environment and the commands that fill it."""

    def __init__(self, host: Path, torch: str, pip_args: str):
        self.host, self.torch, self.pip_args = host, torch, shlex.split(pip_args)
        self.folder = environment_folder(host)
        self.python = venv_python(self.folder)

    def make(self) -> None:
        """Raises subprocess.CalledProcessError with pip's own words above it when something cannot be had."""
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        (self.folder / MADE_FROM).write_text(requirements_of(self.host), "utf-8")
        self.pip(self.torch)
        version, accelerated = self.ask(
            "import torch; print(torch.__version__, bool(torch.version.cuda or torch.version.hip))"
        ).split()
        requirements = requirements_of(self.host).splitlines()
        if accelerated == "False":
            self.pip("--no-deps", *companions(version))
            requirements = [line for line in requirements if not TORCH_FAMILY.match(line)]
        with tempfile.TemporaryDirectory() as folder:
            wanted, limits = Path(folder, "requirements.txt"), Path(folder, "constraints.txt")
            wanted.write_text("\n".join(requirements + EXTRA) + "\n")
            limits.write_text(f"torch=={version}\n")
            self.pip("-r", str(wanted), "-c", str(limits))
        if accelerated == "False":
            self.repair_companions()

    def repair_companions(self) -> None:
        """Makes CUDA builds of torchvision and torchaudio importable beside a CPU build of torch."""
        site = Path(self.ask("import sysconfig; print(sysconfig.get_path('purelib'))"))
        if not self.imports("torchvision"):
            (site / "dcm_torchvision_schemas.py").write_text(SHIM)
            (site / "dcm_torchvision_schemas.pth").write_text("import dcm_torchvision_schemas\n")
        if not self.imports("torchaudio"):
            for library in (site / "torchaudio" / "lib").glob("*.so"):  # without them it is plain Python
                library.unlink()
        for name in ("torchvision", "torchaudio"):
            if not self.imports(name):
                raise RuntimeError(
                    f"{name} does not import in {self.folder}. Remove that folder, set TORCH "
                    "and PIP_ARGS to builds that fit each other, and run this again."
                )

    def pip(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", "install", "-qq", *arguments, *self.pip_args]
        subprocess.run(command, check=True)

    def ask(self, code: str) -> str:
        command = [str(self.python), "-c", code]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def imports(self, name: str) -> bool:
        return subprocess.run([str(self.python), "-c", f"import {name}"], capture_output=True).returncode == 0


def companions(torch_version: str) -> list[str]:
    """torchvision and torchaudio for a torch 2.x: torchvision counts 15 ahead, torchaudio ended with 2.11."""
    minor = int(torch_version.split(".")[1])
    return [f"torchvision==0.{minor + 15}.*", f"torchaudio==2.{min(minor, 11)}.*"]


def main() -> int:
    try:
        hosts = find_hosts()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if not hosts:
        print("hosts: no ComfyUI found (set COMFYUI_PATH to one); the tests that need it will be skipped")
        return 0
    if os.environ.get("COMFYUI_PYTHON"):
        print(f"hosts: {len(hosts)} found, run by {os.environ['COMFYUI_PYTHON']}; nothing to install")
        return 0
    torch, pip_args = os.environ.get("TORCH") or TORCH, os.environ.get("PIP_ARGS", "")
    for host in hosts:
        environment, digest = Environment(host, torch, pip_args), inputs_digest(host, torch, pip_args)
        stamp = environment.folder / STAMP
        if stamp.exists() and stamp.read_text() == digest:
            print(f"hosts: {host} ({host_version(host)}) is ready")
            continue
        print(f"hosts: {host} ({host_version(host)}): making {environment.folder}, a few minutes", flush=True)
        stamp.unlink(missing_ok=True)
        try:
            environment.make()
        except (subprocess.CalledProcessError, RuntimeError) as error:
            print(f"hosts: {host} failed: {error}", file=sys.stderr)
            return 1
        stamp.write_text(digest)
        print(f"hosts: {host} ({host_version(host)}) is ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
