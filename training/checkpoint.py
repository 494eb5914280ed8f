"""Checkpoints: one safetensors file per training state, written whole or not at all.

Nested state dicts are flattened to ``a/b/c`` tensor names; everything that is no tensor travels as JSON in the header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors

from .config import ConfigError

_VERSION = "2"  # of what a state holds and under which names; files without one are of version 1
_SEPARATOR = "/"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict of tensors and plain values to ``path``.

    The file is replaced only once the new one is complete on disk: a kill or a full disk leaves the old one.
    Raises OSError with the path and the remedy where the disk refuses.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_take_tensors(state, "", tensors))
    with atomic_write(path) as file:
        write_tensors(file, tensors, {"state": skeleton, "version": _VERSION})


def load_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Raises OSError where the file is missing or damaged, ConfigError where another version of the trainer wrote it.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            version = header.get("version", "1")
            if version == _VERSION:
                return _give_tensors(json.loads(header["state"]), file.get_tensor)
    except Exception as error:
        raise OSError(f"Could not read the checkpoint {path}: {error}") from error
    raise ConfigError(
        f"The checkpoint {path} is of version {version}, this trainer reads version {_VERSION}. Finish the stage with "
        "the trainer that began it, or delete the file or choose another output to start again."
    )


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {"__tensor__": name}
    if isinstance(value, dict):
        # JSON keys are strings, optimizer state is keyed by integers: keep keys and values as pairs
        return {"__dict__": [[k, _take_tensors(v, f"{name}{_SEPARATOR}{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_tensors(v, f"{name}{_SEPARATOR}{i}", tensors) for i, v in enumerate(value)]
    return value


def _give_tensors(value: Any, get: Any) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            return get(value["__tensor__"])
        return {k: _give_tensors(v, get) for k, v in value["__dict__"]}
    return [_give_tensors(v, get) for v in value] if isinstance(value, list) else value
