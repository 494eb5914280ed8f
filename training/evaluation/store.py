"""Rendered clips on disk, a file a row: what is there already and was made in the same way is not made again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dcm_core.files.atomic import atomic_write


def digest(recipe: Any) -> str:
    """A short name for what something is made of."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The same for a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def stored(folder: Path, name: str, recipe: Any, make: Callable[[], tuple[Tensor, float]]) -> tuple[Tensor, float]:
    """The latents of the row ``name`` and the seconds that a clip took, from ``folder`` or else made and kept there.

    ``recipe``: all that they depend on. Raises OSError with the remedy where they cannot be written.
    """
    path = folder / f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}_{digest(recipe)}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("latents"), float(file.get_tensor("seconds"))
    except (FileNotFoundError, SafetensorError):
        latents, seconds = make()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(save({"latents": latents.contiguous(), "seconds": torch.tensor(seconds, dtype=torch.float64)}))
    return latents, seconds
