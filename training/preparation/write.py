"""Filling a cache shard by shard. A shard is written whole or not at all, so a run that was killed goes on after it.

Which items share a shard follows from their order and sizes: the finished files are the same, bit for bit, however
often the way to them was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors

from ..data.cache import read_shard, shard_path
from ..output import existing
from .manifest import shown


class ShardWriter:
    """``shards``: of each item that is in the cache, those of former runs included."""

    def __init__(self, folder: Path, fingerprint: str, shard_bytes: int):
        self.folder, self.fingerprint, self.shard_bytes = folder, fingerprint, shard_bytes
        self.shards: dict[str, str] = {}
        found = sorted((folder / "shards").glob("*.safetensors"))
        for path in found:
            self.shards |= dict.fromkeys(read_shard(path, fingerprint), path.stem)
        self._next = 1 + max((int(path.stem) for path in found if path.stem.isdigit()), default=-1)
        self._waiting: dict[str, Tensor] = {}
        self._bytes = 0

    def add(self, item: str, tensors: Mapping[str, Tensor]) -> None:
        """Take in an item; a shard is written when it is full. Raises OSError with the remedy."""
        for kind, tensor in tensors.items():
            self._waiting[f"{item}/{kind}"] = tensor.detach().cpu()
            self._bytes += tensor.nbytes
        self.shards[item] = f"{self._next:05d}"
        if self._bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._waiting:
            return
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        with atomic_write(shard_path(self.folder, f"{self._next:05d}")) as file:
            write_tensors(file, self._waiting, {"fingerprint": self.fingerprint})
        self._waiting, self._bytes, self._next = {}, 0, self._next + 1


def ready_folder(folder: Path) -> None:
    """Make the folder of a cache, without what a killed run left half written."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    for half in [*folder.glob(".*.tmp"), *(folder / "shards").glob(".*.tmp")]:
        half.unlink()


def require_room(folder: Path, size: int) -> None:
    """Raise OSError unless ``size`` bytes fit beside what is on the disk."""
    free = shutil.disk_usage(existing(folder)).free
    if free < size:
        raise OSError(
            f"The latents need up to {size / 1e9:.2f} GB, and only {free / 1e9:.2f} GB are free at {shown(folder)}: "
            "free some space, choose another --output, or make fewer or smaller clips."
        )
