"""Checkpoints: a folder for each, whose tensors are safetensors files and everything else JSON.

``checkpoints/00000500`` holds what each process has of the tensors, ``state.json``, and in ``digests.json`` the SHA-256
of each of these files. A folder gets its name when all of it is on disk. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from dcm_core.files.atomic import atomic_write, refused

from ..errors import ConfigError
from ..output import existing
from .world import World

logger = logging.getLogger(__name__)
_VERSION = "5"  # of what a checkpoint holds and under which names; up to 4 it was a single file
_FOLDER, _STATE, _DIGESTS = "checkpoints", "state.json", "digests.json"
_FORMER_TRAINERS = ("checkpoint.safetensors", "checkpoint.former.safetensors")
_ANEW = (
    "Finish the stage with the trainer that began it, choose another output, or train the stage anew with --restart."
)
_CHUNK = 1 << 20


class NoCheckpoint(OSError):
    """There is no checkpoint in this place, or it is damaged: not what was written."""


def reached(folder: Path) -> int:
    """At which iteration the newest checkpoint of a stage's folder is; 0 without one."""
    return max((int(path.name) for path in (folder / _FOLDER).glob("*") if path.name.isdigit()), default=0)


class Checkpoints:
    """The last few checkpoints of a folder, of which the one before steps in where the newest is damaged.

    ``kept``: how many. Every method has to be called by all processes of the world.
    """

    def __init__(self, folder: Path, world: World, kept: int = 2):
        self.folder, self.world, self.kept = folder / _FOLDER, world, kept
        self.former_trainers = [folder / name for name in _FORMER_TRAINERS]

    def all(self) -> list[Path]:
        """Those that are whole on disk, the newest first."""
        return sorted((path for path in self.folder.glob("*") if path.name.isdigit()), reverse=True)

    def exist(self) -> bool:
        return bool(self.all()) or any(path.exists() for path in self.former_trainers)

    def check_room(self, tensors: Mapping[str, Tensor], to_come: int) -> None:
        """Raises OSError where the disk has no room for so many more, or for those that are kept and the next one."""
        most = min(to_come, max(1, self.kept + 1 - len(self.all())))
        needed = most * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        free = shutil.disk_usage(existing(self.folder.parent)).free
        if free < needed:
            raise OSError(
                f"The checkpoints need {needed / 1e9:.3g} GB, and only {free / 1e9:.3g} GB are free at "
                f"{self.folder.parent}: free some space, choose another output, or set a smaller checkpoints_kept."
            )

    def save(self, iteration: int, values: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; those beyond ``kept`` go when it is whole.

        A kill or a full disk leaves those before it. Raises OSError with the remedy where the disk refuses.
        """
        path = self.folder / f"{iteration:08d}"
        temporary = self.folder / f".{path.name}.tmp"
        try:
            if self.world.first:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            self.world.gathered(None)  # the folder is there
            writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
            with _alone(self.world) as alone:
                dcp.save(_detached(tensors), storage_writer=writer, no_dist=alone)
            files = self._digests(temporary)
            if self.world.first:
                _write(temporary / _STATE, values)
                files[_STATE] = _sha256(temporary / _STATE)
                _write(temporary / _DIGESTS, {"version": _VERSION, "files": files})
                shutil.rmtree(path, ignore_errors=True)
                temporary.rename(path)
        except (CheckpointException, OSError) as error:
            kept = "; the former checkpoints are unchanged" if self.all() else ""
            raise refused(path, _reason(error), kept) from error
        finally:
            if self.world.first:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.world.first:
            for old in self.all()[self.kept :]:
                shutil.rmtree(old)
        self.world.gathered(None)  # nobody goes on, or leaves, before it is whole

    def newest(self) -> tuple[Path, dict[str, Any]]:
        """The newest whole checkpoint and all of it that is no tensor; damaged ones after it are put aside.

        Raises NoCheckpoint where none is whole, OSError where one cannot be read just now, and ConfigError where
        another version of the trainer wrote it.
        """
        damaged: dict[Path, str] = {}
        for path in self.all():
            problem = self._damage(path)
            if problem is None:
                self._put_aside(damaged, path)
                return path, json.loads((path / _STATE).read_bytes())
            damaged[path] = f"Could not read the checkpoint {path}: {problem}"
        if damaged:
            told = ". ".join(damaged.values())
            raise NoCheckpoint(f"{told}. There is none before it: train the stage anew with --restart.")
        _refuse_version(self.former_trainers[0], "4 or older")

    def read(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Fill the tensors with those of a checkpoint that is whole, however many processes wrote it.

        Raises OSError where they cannot be read just now, and ValueError where it has others.
        """
        reader = dcp.HuggingFaceStorageReader(str(path))
        try:
            with _alone(self.world) as alone:
                dcp.load(_detached(tensors), storage_reader=reader, no_dist=alone)
        except (CheckpointException, OSError, MemoryError) as error:
            reason = _reason(error)
            if isinstance(reason, OSError | MemoryError):
                raise _just_now(path, reason) from error
            raise ValueError(str(reason)) from error

    def remove(self) -> None:
        """Forget all of them."""
        if self.world.first:
            shutil.rmtree(self.folder, ignore_errors=True)
            for path in self.former_trainers:
                path.unlink(missing_ok=True)
        self.world.gathered(None)

    def _damage(self, path: Path) -> str | None:
        """What of a checkpoint is not what was written; each process reads its share of the files."""
        found = [each for each in self.world.gathered(self._damage_of_share(path)) if each]
        return found[0] if found else None

    def _damage_of_share(self, path: Path) -> str | None:
        try:
            listed = json.loads((path / _DIGESTS).read_bytes())
            if listed["version"] != _VERSION:
                _refuse_version(path, listed["version"])
            for name in sorted(listed["files"])[self.world.rank :: self.world.size]:
                if _sha256(path / name) != listed["files"][name]:
                    return f"the content of {name} is not what was written"
        except FileNotFoundError as error:
            return f"{Path(str(error.filename)).name} is missing"
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            return f"the content of {_DIGESTS} is not what was written"
        except (OSError, MemoryError) as error:
            raise _just_now(path, error) from error
        return None

    def _put_aside(self, damaged: dict[Path, str], instead: Path) -> None:
        for path, problem in damaged.items():
            logger.warning("%s. Going on from the one before it, %s.", problem, instead)
            if self.world.first:
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def _digests(self, folder: Path) -> dict[str, str]:
        """Of the tensors' files, of which each process reads its share."""
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        shares = self.world.gathered(
            {name: _sha256(folder / name) for name in names[self.world.rank :: self.world.size]}
        )
        return {name: digest for share in shares for name, digest in share.items()}


@contextmanager
def _alone(world: World) -> Iterator[bool]:
    """Whether there is one process, which is no reason for PyTorch to wonder."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield world.size == 1


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Nothing but tensors may be given to the writer: a number among them makes a file that cannot be read."""
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(values, indent=1).encode())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: BaseException) -> BaseException:
    """What a process said, of those that failed together."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def _just_now(path: Path, error: BaseException) -> OSError:
    reason = str(error) or type(error).__name__
    return OSError(f"Could not read the checkpoint {path} just now: {reason}. It is left as it is.")


def _refuse_version(path: Path, version: str) -> NoReturn:
    raise ConfigError(f"The checkpoint {path} is of version {version}, this trainer reads version {_VERSION}. {_ANEW}")
