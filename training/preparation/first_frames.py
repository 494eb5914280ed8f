"""Prompts with first frames, for image to video without videos: a picture each, cut and scaled like a clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..data.buckets import Size
from .clips import Clip, named
from .filters import Dropped
from .scan import ClipRules, Scanned, plan


@dataclass(frozen=True)
class FirstFrame:
    """``clip``: the picture as a clip of one frame; ``size``: of the clips that begin with it."""

    clip: Clip
    size: Size

    def name(self, fingerprint: str) -> str:
        """What it is called in a cache."""
        return named("first frame", self.clip.name(fingerprint), str(self.size.frames))


def first_frames(pictures: Iterable[Scanned], rules: ClipRules, size: Size) -> tuple[list[FirstFrame], list[Dropped]]:
    """Pictures as first frames of clips of this size, and what cannot be used. One may stand beside several prompts."""
    planned = [plan([each], replace(rules, sizes=[size._replace(frames=1)])) for each in pictures]
    firsts = [FirstFrame(clip, size) for clips, _ in planned for clip in clips]
    return firsts, [each for _, unfit in planned for each in unfit]


def labels(prompts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """What each (caption, source) is called as a prompt: its caption, and the source too where one came before."""
    taken: set[str] = set()
    for caption, source in prompts:
        label = f"{caption} ({source})" if caption in taken else caption
        taken.add(label)
        yield label
