"""Prompts in a text file."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises ConfigError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"paths.prompts: {os.fspath(path)} cannot be read as text in UTF-8: {error}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"paths.prompts: {os.fspath(path)} has no prompt; write one per line.")
    return prompts
