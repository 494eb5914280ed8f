"""What to say where the packages of the trainer are missing or do not go together."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_SHOWN = ("torch", "diffusers", "peft", "transformers")


def cannot_import(error: ImportError) -> str:
    """What is installed here, what fits, and what to install."""
    here = ", ".join(f"{name} {found}" for name in _SHOWN if (found := _version(name)))
    needed = " and ".join(
        line
        for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()
        if re.split("[<>=]", line)[0] in ("diffusers", "peft", error.name)
    )
    return (
        f"The trainer's packages cannot be imported: {str(error).splitlines()[0]}. "
        f"Installed are {here or 'none of them'}; needed are {needed}, "
        "and beside transformers 5 a peft of 0.18 or newer. "
        f'Run: python -m pip install -U -r "{REQUIREMENTS}"'
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
