"""How a tensor of one layout is made of tensors of another: rows of them, one after the other.

Fused projections, their split, and swapped halves are all this one thing, so that a converter needs no other
knowledge of a layout, and can tell every target's shape before it reads a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..files.format import TensorInfo


class Part(NamedTuple):
    """Rows ``start`` to ``stop`` of a tensor's first dimension; without them, the tensor as it is."""

    name: str
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A tensor as the concatenation of its parts along the first dimension."""

    parts: tuple[Part, ...]

    @classmethod
    def copy(cls, name: str) -> Recipe:
        """The tensor ``name`` as it is."""
        return cls((Part(name),))

    @classmethod
    def fused(cls, names: Iterable[str]) -> Recipe:
        """The rows of several whole tensors, in this order."""
        return cls(tuple(map(Part, names)))

    @classmethod
    def swapped(cls, name: str, rows: int) -> Recipe:
        """The second half of the rows of ``name`` before the first one."""
        half = rows // 2
        return cls((Part(name, half, rows), Part(name, 0, half)))

    @property
    def is_copy(self) -> bool:
        return len(self.parts) == 1 and self.parts[0][1:] == (None, None)

    def build(self, read: Callable[[str], Tensor]) -> Tensor:
        """The tensor, from a function that gives each source by name. A copy is what ``read`` gave, not cloned."""
        if self.is_copy:
            return read(self.parts[0].name)
        sources = {name: read(name) for name in {part.name: None for part in self.parts}}
        return torch.cat([sources[part.name][part.start : part.stop] for part in self.parts])

    def info(self, infos: Mapping[str, TensorInfo]) -> TensorInfo:
        """dtype and shape of the tensor, from those of its sources.

        Raises ValueError where sources that are to become one tensor have different dtypes or row lengths.
        """
        if self.is_copy:
            return infos[self.parts[0].name]
        sources = [infos[part.name] for part in self.parts]
        kinds = {(source.dtype, tuple(source.shape[1:])) for source in sources}
        if len(kinds) > 1:
            found = ", ".join(f"{part.name} {infos[part.name]}" for part in self.parts)
            raise ValueError(f"tensors that are one in the other layout differ in dtype or row length: {found}")
        ((dtype, row),) = kinds
        rows = [
            len(range(*slice(part.start, part.stop).indices(source.shape[0])))
            for part, source in zip(self.parts, sources, strict=True)
        ]
        return TensorInfo(dtype, (sum(rows), *row))


def copies_and_compositions(recipes: Mapping[str, Recipe]) -> tuple[dict[str, str], dict[str, Recipe]]:
    """(what each tensor that is a copy is a copy of, the recipes of the others)."""
    copies = {name: recipe.parts[0].name for name, recipe in recipes.items() if recipe.is_copy}
    return copies, {name: recipe for name, recipe in recipes.items() if name not in copies}
