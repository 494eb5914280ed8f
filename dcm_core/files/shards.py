"""Which files hold one network: a single file, a set of shards, or a folder as diffusers saves it."""

import json
import os
import re
from pathlib import Path

from ..errors import ExpertFileError, shortened
from .stream import TensorSource

_INDEX = ".safetensors.index.json"
_EXTENSIONS = (".safetensors", ".sft")
_SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{1,5})(?P<rest>-of-(?P<count>\d{1,5})(?:\.safetensors|\.sft))", re.IGNORECASE
)


def is_safetensors(path: str | os.PathLike) -> bool:
    """Is this the name of such a file? However its ending is written."""
    return str(path).lower().endswith(_EXTENSIONS)


def shard_set(name: str) -> str | None:
    """What all the shards of one network have in common in their names; None for a name that is no shard's."""
    match = _SHARD.fullmatch(name)
    return match and match["stem"] + match["rest"].lower()


def open_weights(path: str | os.PathLike) -> TensorSource:
    """The tensors of a safetensors file, a shard or its index, a diffusers model folder or the pipeline's folder.

    Raises ExpertFileError where it is not plain which network is meant, or a part of it is missing, and
    FileNotFoundError and OSError as the system gives them. Read within ``with``.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if _is_index(path):
        return _indexed(path)
    if match := _SHARD.fullmatch(path.name):
        shards = _whole_set(path, match)
        _require(shards, path)
        return TensorSource(shards)
    return TensorSource([path])


def _is_index(path: Path) -> bool:
    return path.name.lower().endswith(_INDEX)


def _whole_set(shard: Path, match: re.Match[str]) -> list[Path]:
    """All the shards of a network by one of them, however their numbers and endings are written."""
    there: dict[int, Path] = {}
    for file in shard.parent.iterdir():
        other = _SHARD.fullmatch(file.name)
        if other and shard_set(file.name) == shard_set(shard.name):
            there[int(other["number"])] = file
    width = len(match["number"])
    return [
        there.get(number) or shard.with_name(f"{match['stem']}-{number:0{width}}{match['rest']}")
        for number in range(1, int(match["count"]) + 1)
    ]


def _in_folder(folder: Path) -> Path:
    indices = sorted(file for file in folder.iterdir() if _is_index(file))
    files = sorted(file for file in folder.iterdir() if is_safetensors(file))
    # Every shard leads to its whole set.
    found = indices or list({shard_set(file.name) or file.name: file for file in files}.values())
    if len(found) == 1:
        return found[0]
    if found:
        names = shortened([each.name for each in found])
        raise ExpertFileError(f"{folder} holds more than one network: name the file. It has {names}.")
    networks = sorted(each for each in folder.glob("transformer*") if each.is_dir())
    if len(networks) == 1:
        return _in_folder(networks[0])
    if networks:
        names = shortened([str(each) for each in networks])
        raise ExpertFileError(f"{folder} holds a pair of networks: name one of them, {names}.")
    raise ExpertFileError(
        f"{folder} has no .safetensors file, nor a folder 'transformer' with one: choose the model's folder"
    )


def _indexed(index: Path) -> TensorSource:
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # A shard lies beside its index: a path that leads elsewhere is not followed.
        named = [index.with_name(name) for name in sorted(set(table.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExpertFileError(f"{index} is no index of safetensors shards. Download it again.") from error
    there = {file.name.lower(): file for file in index.parent.iterdir()}
    shards = [file if file.is_file() else there.get(file.name.lower(), file) for file in named]
    _require(shards, index)
    sets = [_whole_set(shard, match) for shard in shards if (match := _SHARD.fullmatch(shard.name))]
    whole = {file.name.lower(): file.name for each in sets for file in each}
    if unnamed := sorted(whole.keys() - {shard.name.lower() for shard in shards}):
        raise ExpertFileError(
            f"{index} names only {len(whole) - len(unnamed)} of the {len(whole)} files of its network: it leaves out "
            f"{shortened([whole[name] for name in unnamed])}. Download the index again, or delete it: the files alone "
            "are enough."
        )
    source = TensorSource(shards)
    if wrong := sorted(table.keys() ^ source.infos.keys()):
        raise ExpertFileError(
            f"{index} and its files disagree about {shortened(wrong)}: they come from different versions, or one "
            "was changed. Download all of them again."
        )
    return source


def _require(shards: list[Path], named: Path) -> None:
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ExpertFileError(
            f"{named} needs files that are not beside it: {shortened(missing)}. Download them into the same folder."
        )
