"""A cache of latents and text embeddings: safetensors shards, and an index that says what is in them.

``FOLDER/shards/00000.safetensors``: tensors ``ITEM/latents``, ``ITEM/text``, ``ITEM/pooled``, and of a first frame
``ITEM/image``, ``ITEM/vision``. An item's name follows from its content alone. ``FOLDER/index.json``: the clips, their
captions and where their items are; it is written once all is encoded, so a folder without one is not finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dcm_core.errors import ExpertFileError
from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import read_header

from ..errors import ConfigError, MissingCache
from .buckets import Size

VERSION = "1"  # of the layout that this file describes
FRAME = ("image", "vision")  # the kinds of tensors that a first frame is told by
_OPEN = 32  # shards at a time


@dataclass(frozen=True)
class CachedClip:
    """``latents``, ``text``: names of items. ``source``, ``begin``, ``fps``: the file and where in it the clip is."""

    latents: str
    text: str
    caption: str
    size: Size
    source: str
    begin: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """``fingerprint``: of the encoders. ``texts``: item by caption, with those of no clip. ``shards``: of each item.

    ``negative``: the negative prompt that was embedded beside the empty caption. ``shape``: of the latents [C, T, H, W]
    of clips of the size that was asked for. ``frames``: of image to video, the item with the first frame of each
    prompt, all of the size that most clips have.
    """

    backbone: str
    fingerprint: str
    negative: str
    clips: list[CachedClip]
    texts: dict[str, str]
    shards: dict[str, str]
    shape: list[int] = field(default_factory=list)
    frames: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Raises OSError with the remedy."""
        # escaped, since a caption may hold half a character
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1, sort_keys=True)
        with atomic_write(folder / "index.json") as file:
            file.write(text.encode("ascii"))


def read_index(folder: Path) -> CacheIndex:
    """Raises MissingCache where there is none, and ConfigError for an unfinished one or one of another version."""
    path = folder / "index.json"
    if not folder.is_dir():
        raise MissingCache(f"There is no cache at {folder.absolute()}.")
    if not path.is_file():
        raise ConfigError(
            f"{folder} is no finished cache, since it has no index.json: run training/prepare.py again, it goes on "
            "where it stopped."
        )
    try:
        values = json.loads(path.read_text("ascii"))
        version = values.pop("version")
        if version == VERSION:
            clips = [CachedClip(**(clip | {"size": Size(*clip["size"])})) for clip in values.pop("clips")]
            return CacheIndex(clips=clips, **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): run training/prepare.py again, nothing is encoded twice."
        ) from None
    raise ConfigError(f"{path} is of version {version}, this trainer reads version {VERSION}: prepare the clips anew.")


def shard_path(folder: Path, shard: str) -> Path:
    return folder / "shards" / f"{shard}.safetensors"


def read_shard(path: Path, fingerprint: str) -> list[str]:
    """The items of a shard. Raises ConfigError for a damaged one, and for one of other encoders."""
    try:
        header = read_header(path)
    except ExpertFileError as error:
        raise ConfigError(
            f"{error}. Remove it and run the same command again: its clips alone are encoded anew."
        ) from None
    if header.metadata.get("fingerprint") != fingerprint:
        raise ConfigError(
            f"{path} was made with another autoencoder or other encoders of texts and images: choose another "
            "--output, or remove that one."
        )
    return list(dict.fromkeys(name.partition("/")[0] for name in header.tensors))


class CachedTensors:
    """The tensors of a cache's items, mapped into memory: only what is asked for is read."""

    def __init__(self, folder: Path, shards: Mapping[str, str]):
        self.folder, self.shards = folder, shards
        self._open = lru_cache(_OPEN)(self._opened)

    def read(self, item: str, kinds: Sequence[str] = ("latents", "text", "pooled")) -> dict[str, Tensor]:
        """The tensors of an item by their kind, of those that it has. Raises OSError for a shard that is gone or
        damaged."""
        shard = self.shards[item]
        file = self._open(shard)
        names = [f"{item}/{kind}" for kind in kinds]
        try:
            return {name.rpartition("/")[2]: file.get_tensor(name) for name in names if name in self._names(shard)}
        except Exception as error:
            raise self._damaged(shard, error) from None

    def shape(self, item: str, kind: str) -> list[int]:
        """Of one of an item's tensors, by the shard's header alone. Raises OSError like ``read``."""
        shard = self.shards[item]
        file = self._open(shard)
        try:
            return file.shape(f"{item}/{kind}")
        except Exception as error:
            raise self._damaged(shard, error) from None

    def check(self) -> None:
        """Raises OSError for the first shard that is gone, damaged, or another one than the index tells of."""
        items: dict[str, set[str]] = {}
        for item, shard in self.shards.items():
            items.setdefault(shard, set()).add(item)
        for shard, told in sorted(items.items()):
            if not shard_path(self.folder, shard).is_file():
                raise self._damaged(shard, "it is missing")
            if lacking := told - {name.partition("/")[0] for name in self._names(shard)}:
                raise self._damaged(shard, f"it lacks {len(lacking)} of the {len(told)} items that index.json tells of")

    def _names(self, shard: str) -> set[str]:
        return self._open(shard).names

    def _opened(self, shard: str) -> Any:
        try:
            return _Shard(shard_path(self.folder, shard))
        except Exception as error:
            raise self._damaged(shard, error) from None

    def _damaged(self, shard: str, why: object) -> OSError:
        return OSError(
            f"{shard_path(self.folder, shard)} cannot be read ({why}): copy the whole cache again, or remove this "
            "shard and run training/prepare.py as before, which encodes its clips alone anew."
        )


class _Shard:
    def __init__(self, path: Path):
        self.file: Any = safe_open(path, "pt")
        self.names = set(self.file.keys())

    def get_tensor(self, name: str) -> Tensor:
        return self.file.get_tensor(name)

    def shape(self, name: str) -> list[int]:
        return self.file.get_slice(name).get_shape()
