"""The numbered blocks of a network, told from the names of its parameters: how many, and whether some are lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise, repeat

_NUMBERED = re.compile(r"(.*?)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Sizes:
    """The published sizes of a class of networks.

    * ``layer``: a weight with as many rows as the network is wide; ``stems``: of its blocks, each ends in ``{i}``
    * ``names``: of the sizes, by the width and the number of blocks of each stem
    """

    layer: str
    stems: tuple[str, ...]
    names: Mapping[tuple[int, ...], str]

    def name(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """By the shapes of the weights, under ComfyUI's names."""
        size = self._of(shapes)
        return self.names.get(size, f"of width {size[0]} with {_counted(size)} blocks")

    def doubt(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """What to say of a network that is as wide as a published one and has fewer blocks; nothing of others."""
        if self.layer not in shapes:  # packed by another node pack
            return ""
        size = self._of(shapes)
        for published, name in self.names.items() if size not in self.names else ():
            if size[0] == published[0] and any(mine < theirs for mine, theirs in zip(size, published, strict=True)):
                return (
                    f"this backbone is as wide as the {name} one and has {_counted(size)} blocks instead of "
                    f"{_counted(published)}: unless it was pruned, its file is not whole. Download it again."
                )
        return ""

    def _of(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        return shapes[self.layer][0], *(len(over_blocks([stem], shapes)) for stem in self.stems)


def over_blocks(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The patterns with every block number up to the highest that the names have after the text before ``{i}``."""
    blocks: dict[str, list[str]] = {}
    found: list[str] = []
    for pattern in patterns:
        stem, numbered, _ = pattern.partition("{i}")
        if not numbered:
            found.append(pattern)
            continue
        if stem not in blocks:
            matches = map(re.compile(rf"{re.escape(stem)}(\d+)\.").match, names)
            highest = max([int(match[1]) for match in matches if match], default=-1)
            blocks[stem] = [str(number) for number in range(highest + 1)]
        found += map(pattern.replace, repeat("{i}"), blocks[stem])
    return found


def lost_in_blocks(names: Iterable[str]) -> list[str]:
    """What the numbered blocks among these names must have lost, whatever network they are of.

    That is a block before another one, and a parameter that only one block of many lacks, or that every so many
    blocks have but for a few of them. Blocks of different makes may stand side by side.
    """
    stems: dict[str, dict[int, set[str]]] = {}
    for match in filter(None, map(_NUMBERED.fullmatch, names)):
        stems.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    return [f"{stem}.{each}" for stem, parts in stems.items() if _are_blocks(parts) for each in _lost(parts)]


def _are_blocks(parts: Mapping[int, set[str]]) -> bool:
    """Are several of them made of modules? A sequence of layers has numbers for its activations too."""
    return sum(any("." in name for name in own) for own in parts.values()) > 1


def _lost(blocks: Mapping[int, set[str]]) -> list[str]:
    """Of blocks by number, each given as the names in it."""
    if gaps := sorted(set(range(max(blocks))) - blocks.keys()):
        return [str(number) for number in gaps]
    return [
        f"{number}.{name}"
        for name in sorted(set().union(*blocks.values()))
        for number in _lacking({number for number, own in blocks.items() if name in own}, blocks)
    ]


def _lacking(there: set[int], blocks: Mapping[int, set[str]]) -> list[int]:
    """The blocks that should have what these have."""
    model = blocks[min(there)]
    if len(there) == len(blocks) - 1 > 1:
        return [number for number in blocks.keys() - there if len(blocks[number] & model) > len(model) / 2]
    step = min((after - before for before, after in pairwise(sorted(there))), default=1)
    lost = sorted(set(range(min(there), max(there), step)) - there)
    return lost if len(lost) <= len(there) / 2 else []


def _counted(size: tuple[int, ...]) -> str:
    return " + ".join(map(str, size[1:]))
