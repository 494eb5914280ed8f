"""VBench over a folder of videos: what is missing, the dimensions one by one, and their summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcm_core.files.atomic import atomic_write

from ...errors import ConfigError
from .environment import Environment
from .scores import DIMENSIONS, aggregate, listed, table
from .suite import FILTERABLE, FILTERED, Suite, ending_of, own_videos

_NAMED = 5  # missing videos that are told by name; a file has the others


@dataclass(frozen=True)
class Job:
    """Which videos, by which dimensions, into which folder. Without a suite they are videos of one's own.

    ``name`` and ``calls`` head the row in the table.
    """

    videos: Path
    output: Path
    dimensions: list[str]
    environment: Environment
    suite: Suite | None
    name: str
    calls: str = "?"

    def lacks(self) -> list[str]:
        """What is missing of the videos, a sentence each."""
        if not self.videos.is_dir():
            return [f"There is no folder of videos at {self.videos}."]
        if self.suite is None:
            return [] if own_videos(self.videos) else [f"{self.videos} holds no .mp4 or .gif."]
        found = self._strange()
        missing = self.suite.missing(self.dimensions, self.videos)
        if not missing:
            return found
        everything = self.output / "missing.txt"
        _write(everything, "\n".join(missing) + "\n")
        named = "".join(f"\n  {name}" for name in missing[:_NAMED])
        return [
            *found,
            f"Videos that are missing in {self.videos}: {len(missing)}, such as{named}\n"
            f"  All are named in {everything}; --manifest lists what to sample.",
        ]

    def _strange(self) -> list[str]:
        """What VBench would stumble over in the folder, a sentence each."""
        ending = ending_of(self.videos)
        others = sorted(path.name for path in self.videos.iterdir() if path.suffix != ending)
        found = []
        if others:
            found.append(
                f"{self.videos} holds more than videos in {ending}, such as {others[0]}, and VBench looks for the kind "
                "of file that it meets first: move the rest out."
            )
        if FILTERED in self.dimensions and ending != FILTERABLE:
            found.append(
                f"{FILTERED}: VBench's filter of still videos reads {FILTERABLE} alone, and these are {ending}."
            )
        return found

    def run(self) -> dict[str, float]:
        """Judge the dimensions that have no score yet, and write the summary. Raises ConfigError."""
        _same(self.output / "set.json", self._set())
        for dimension in self.dimensions:
            if self._score(dimension) is None:
                self._judge(dimension)
        scores = {name: value for name in DIMENSIONS if (value := self._score(name)) is not None}
        self._summarise(scores)
        return scores

    def _judge(self, dimension: str) -> None:
        print(f"VBench: {dimension}", flush=True)
        videos, prompts = self.videos, self.suite.path if self.suite else Path("none")
        if self.suite and dimension == FILTERED:
            videos = self.environment.keep_still(videos, self.output / "still")
        self.environment.evaluate(videos, prompts, self.output, dimension, custom=self.suite is None)
        if self._score(dimension) is None:
            raise ConfigError(f"{dimension}: VBench has written no score into {self.output}.")

    def _score(self, dimension: str) -> float | None:
        """A dimension's mean over the videos, once it is there; of videos that were made anew since, there is none."""
        path = self.output / f"{dimension}_eval_results.json"
        try:
            if path.stat().st_mtime < self._newest(dimension):
                return None
            return float(json.loads(path.read_text(encoding="utf-8"))[dimension][0])
        except (FileNotFoundError, ValueError, KeyError):  # one that was cut off is made anew
            return None

    def _newest(self, dimension: str) -> float:
        """When the last of the videos that a dimension judges was written."""
        if self.suite is None:
            judged = own_videos(self.videos)
        else:
            ending = ending_of(self.videos)
            judged = [self.videos / (each.stem + ending) for each in self.suite.asked([dimension])]
        return max((path.stat().st_mtime for path in judged if path.exists()), default=0.0)

    def _set(self) -> dict[str, Any]:
        """Which videos were judged: scores of others are never mixed in."""
        judged = {"videos": str(self.videos.absolute())}
        if self.suite is None:
            return judged | {"set": "videos of one's own"}
        return judged | {"set": "VBench, 16 dimensions", "sha256": self.suite.digest, "texts": self.suite.texts}

    def _summarise(self, scores: Mapping[str, float]) -> None:
        whole = self.suite is not None and all(name in scores for name in DIMENSIONS)
        own = aggregate(scores, self.name, self.calls) if whole else None
        summary = {**self._set(), "name": self.name, "scores": dict(scores), "row": own._asdict() if own else None}
        _write(self.output / "summary.json", json.dumps(summary, indent=1) + "\n")
        _write(self.output / "summary.md", f"{listed(scores)}\n\n{table(own)}\n")


def manifest(path: Path, suite: Suite, dimensions: Sequence[str], seed: int) -> int:
    """Write the list of videos to sample. Returns how many."""
    lines = list(suite.manifest(dimensions, seed))
    _write(path, "\n".join(lines) + "\n")
    return len(lines)


def _same(path: Path, now: Mapping[str, Any]) -> None:
    """Raises ConfigError where a folder has scores of other videos."""
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8"))) != now:
        changed = ", ".join(name for name in {*kept, *now} if kept.get(name) != now.get(name))
        raise ConfigError(f"{path.parent} has scores of another set ({changed}). Choose another --output.")
    _write(path, json.dumps(now, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())
