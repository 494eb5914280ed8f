"""Checkpoints: one safetensors file per training state, written whole or not at all.

Nested state dicts are flattened to ``a/b/c`` tensor names; everything that is no tensor travels as JSON in the header.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors
from dcm_core.files.stream import TensorDigest

from ..errors import ConfigError

logger = logging.getLogger(__name__)
_VERSION = "4"  # of what a state holds and under which names; files without one are of version 1
_SEPARATOR = "/"


class NoCheckpoint(OSError):
    """There is no checkpoint in this place, or it is damaged: not what was written."""


class Checkpoints:
    """The newest checkpoint of a folder and the one before it, which steps in where the newest is damaged or gone."""

    def __init__(self, folder: Path):
        self.newest, self.former = folder / "checkpoint.safetensors", folder / "checkpoint.former.safetensors"

    def exist(self) -> bool:
        return self.newest.exists() or self.former.exists()

    def save(self, state: dict[str, Any]) -> None:
        """Write the newest; what was the newest is the former then. Raises as ``save_state``."""
        save_state(self.newest, state, self.former)

    def load(self) -> dict[str, Any]:
        """The newest whole state; a damaged newest is put aside. Raises as ``load_state``."""
        try:
            return load_state(self.newest)
        except NoCheckpoint as error:
            if not self.former.exists():
                raise NoCheckpoint(f"{error}. There is none before it: train the stage anew with --restart.") from None
            state = load_state(self.former)
            logger.warning("%s. Going on from the one before it, %s.", error, self.former)
            if self.newest.exists():
                self.newest.replace(self.newest.with_name("checkpoint.damaged.safetensors"))
            return state

    def remove(self) -> None:
        for path in (self.newest, self.former):
            path.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any], former: Path | None = None) -> None:
    """Write a nested dict of tensors and plain values to ``path``; what was there goes on as ``former``, if given.

    The file is replaced only once the new one is complete on disk: a kill or a full disk leaves the old one.
    Raises OSError with the path and the remedy where the disk refuses.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_take_tensors(state, "", tensors))
    header = {"state": skeleton, "version": _VERSION}
    header["digest"] = _digest(header, tensors)
    with atomic_write(path) as file:
        write_tensors(file, tensors, header)
        if former is not None and path.exists():
            _keep(path, former)


def load_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Raises NoCheckpoint where the file is missing or damaged, OSError where it cannot be read just now, and ConfigError
    where another version of the trainer wrote it.
    """
    try:
        # safe_open calls whatever the system does not open a file that is not there.
        with open(path, "rb"), safe_open(path, "pt") as file:
            header = file.metadata() or {}
            version, told = header.get("version", "1"), header.pop("digest", None)
            # Asked of every version that writes one, lest a damaged number be taken for another trainer's.
            if told is not None or version == _VERSION:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                if told != _digest(header, tensors):
                    raise ValueError("its content is not what was written")
                if version == _VERSION:
                    return _give_tensors(json.loads(header["state"]), tensors.__getitem__)
    except (SafetensorError, ValueError, FileNotFoundError) as error:
        raise NoCheckpoint(f"Could not read the checkpoint {path}: {error}") from error
    except (OSError, MemoryError, RuntimeError) as error:  # PyTorch's word for too little memory is the last
        reason = str(error) or type(error).__name__
        raise OSError(f"Could not read the checkpoint {path} just now: {reason}. It is left as it is.") from error
    raise ConfigError(
        f"The checkpoint {path} is of version {version}, this trainer reads version {_VERSION}. Finish the stage with "
        "the trainer that began it, choose another output, or train the stage anew with --restart."
    )


def _digest(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    digest = TensorDigest(json.dumps(sorted(header.items())).encode())
    digest.add_all(tensors)
    return digest.text()


def _keep(path: Path, former: Path) -> None:
    """A second name for the file, in one step; a copy where the file system has no second names."""
    temporary = former.with_name(f".{former.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(former)


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
