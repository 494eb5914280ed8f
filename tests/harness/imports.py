"""Every import of the project's own files, read from their text: also those inside functions and for type checkers."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .hosts import ROOT

PACKAGES = ("dcm_core", "nodes", "training")
HOST_MODULES = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfyui_version",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "server",
}


@dataclass(frozen=True)
class Import:
    """``file`` imports the module ``target``: a file of the project, or else a dotted name.

    ``relative`` tells how it is written.
    """

    file: Path
    target: Path | str
    relative: bool

    @property
    def outside(self) -> str | None:
        """The top-level name of a module that is neither the project's nor Python's own."""
        if isinstance(self.target, Path):
            return None
        name = self.target.partition(".")[0]
        return None if name in sys.stdlib_module_names else name


def files(package: str) -> list[Path]:
    """The Python files of a package, relative to the root."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


@cache
def imports(package: str) -> list[Import]:
    return [found for file in files(package) for found in imports_of(file)]


def imports_of(file: Path) -> list[Import]:
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(file, _module(alias.name), False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(file, node.level) + ([node.module] if node.module else [])
            names = [".".join([*base, alias.name]) for alias in node.names]
            # `from .folder import name`: the module of that name if there is one, else something in the folder's own
            targets = [_module(name) if isinstance(_module(name), Path) else _module(".".join(base)) for name in names]
            found += [Import(file, target, node.level > 0) for target in targets]
    return found


def _base(file: Path, level: int) -> list[str]:
    """The package that a relative import of this level starts from."""
    return list(file.parts[: len(file.parts) - level]) if level else []


def _module(name: str) -> Path | str:
    """The project's file of this dotted name, or the name if there is none."""
    path = Path(*name.split("."))
    if path.parts[0] in PACKAGES:
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if (ROOT / file).is_file():
                return file
    return name
