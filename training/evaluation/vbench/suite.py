"""VBench's set of prompts: which videos it asks for, how they are named, and which of them are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ...errors import ConfigError

SEEDS = 5
# Videos that move are taken out before this dimension, so that more are asked for.
FILTERED, FILTERED_SEEDS, FILTERABLE = "temporal_flickering", 25, ".mp4"
SOURCE = "https://raw.githubusercontent.com/Vchitect/VBench/master/vbench/VBench_full_info.json"
VIDEOS = (".mp4", ".gif")


@dataclass(frozen=True)
class Asked:
    """A video: its prompt in the set, the text to sample it with, its number among those of the prompt."""

    prompt: str
    text: str
    number: int
    dimensions: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The name of its file without the ending."""
        return f"{self.prompt}-{self.number}"

    def seed(self, of: int) -> int:
        """Of its noise: another for each video, the same for each method that is compared."""
        return int.from_bytes(blake2b(f"{of}/{self.stem}".encode(), digest_size=4).digest(), "little")


class Suite:
    """The prompts of ``VBench_full_info.json``, each with its dimensions.

    ``texts``: what to sample instead of each prompt, a line each in the order of ``prompts/all_dimension.txt``, as
    VBench's own augmented prompts are.
    """

    def __init__(self, path: Path, texts: Path | None = None):
        """Raises ConfigError where a file is missing or no such set."""
        raw = _read(path)
        try:
            entries = json.loads(raw)
            prompts = [entry["prompt_en"] for entry in entries]
            dimensions = [entry["dimension"] for entry in entries]
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is no set of VBench's prompts ({error}). It is at {SOURCE}.") from None
        lines = prompts if texts is None else [line.strip() for line in _read(texts).decode().splitlines()]
        if len(lines) != len(prompts):
            raise ConfigError(f"{texts} has {len(lines)} lines, and the set {len(prompts)} prompts: a line for each.")
        self.path = path
        self.digest = hashlib.sha256(raw).hexdigest()
        self.texts = None if texts is None else hashlib.sha256(_read(texts)).hexdigest()
        self._told: dict[str, str] = {}
        self._dimensions: dict[str, dict[str, None]] = {}  # a prompt may stand there twice
        for prompt, line, named in zip(prompts, lines, dimensions, strict=True):
            self._told.setdefault(prompt, line)
            self._dimensions.setdefault(prompt, {}).update(dict.fromkeys(named))

    def asked(self, dimensions: Sequence[str]) -> Iterator[Asked]:
        """The videos that these dimensions need, each once."""
        for prompt, named in self._dimensions.items():
            wanted = tuple(name for name in named if name in dimensions)
            count = FILTERED_SEEDS if FILTERED in wanted else SEEDS
            yield from (Asked(prompt, self._told[prompt], number, wanted) for number in range(count) if wanted)

    def missing(self, dimensions: Sequence[str], folder: Path) -> list[str]:
        """The names of the videos that are not in a folder."""
        ending = ending_of(folder)
        there = {path.name for path in folder.glob("*")}
        names = (each.stem + ending for each in self.asked(dimensions))
        return [name for name in names if name not in there]

    def manifest(self, dimensions: Sequence[str], seed: int) -> Iterator[str]:
        """A line of JSON for each video to sample."""
        for each in self.asked(dimensions):
            values = {"file": f"{each.stem}.mp4", "text": each.text, "seed": each.seed(seed), "prompt": each.prompt}
            yield json.dumps(values, ensure_ascii=False)


def ending_of(folder: Path) -> str:
    """The kind of the videos in a folder: VBench takes one kind at a time."""
    return next((ending for ending in VIDEOS if any(folder.glob(f"*{ending}"))), VIDEOS[0])


def own_videos(folder: Path) -> list[Path]:
    """The videos in a folder, whatever their names."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEOS)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}. VBench's set of prompts is at {SOURCE}.") from None
