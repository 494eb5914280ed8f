"""Names of a weight in diffusers and in ComfyUI: one table per network class, read in both directions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from .blocks import over_blocks
from .recipe import Part, Recipe

Shapes = Mapping[str, tuple[int, ...]]


class UnknownKeyError(ValueError):
    """A name no row of the table maps. The message names the nearest row."""


class Shaped(Protocol):
    """A tensor, or what a file's header says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Row:
    """One ComfyUI weight in both namings; ``{i}`` stands for a block's number, once in every name or in none.

    Several diffusers weights are rows of one ComfyUI weight, in this order: all but the last have as many rows
    as the weight has columns (square projections). ``swapped`` says that diffusers has the two halves of the
    rows in the other order. ``also`` is another name that ComfyUI has for the weight.
    """

    diffusers: str | tuple[str, ...]
    comfy: str
    swapped: bool = False
    also: str = ""

    @cached_property
    def sources(self) -> tuple[str, ...]:
        return (self.diffusers,) if isinstance(self.diffusers, str) else self.diffusers


def layers(diffusers: str | tuple[str, ...], comfy: str, swapped: bool = False) -> tuple[Row, Row]:
    """The two rows of a layer with weight and bias."""

    def tensor(kind: str) -> Row:
        if isinstance(diffusers, str):
            return Row(f"{diffusers}.{kind}", f"{comfy}.{kind}", swapped)
        return Row(tuple(f"{name}.{kind}" for name in diffusers), f"{comfy}.{kind}", swapped)

    return tensor("weight"), tensor("bias")


@dataclass(frozen=True)
class KeyMap:
    """A bijection between diffusers and ComfyUI names, and the layers its detail expert changes.

    * ``network``: what its class is called; ``recognised_by``: a weight that no other table has, in either naming.
    * ``low_rank``, ``replaced``: ComfyUI module names (with ``{i}``), those that get low-rank pairs and those
      that get a full difference.
    * ``variant``: version, task and size for people, from the shapes by ComfyUI name; ``size``: the size alone;
      ``doubt``: what is odd about it, or nothing.
    * ``twins``: diffusers modules of which a released bundle holds a second copy, ``<module>_lora``.
    * ``optional``: beginnings of ComfyUI names that only some variants have.
    * ``spellings``: pieces of other names that ComfyUI reads too, and what it reads them as, one after the other.

    Raises ValueError for a table that is no bijection.
    """

    network: str
    rows: tuple[Row, ...]
    low_rank: tuple[str, ...]
    replaced: tuple[str, ...]
    recognised_by: Row
    variant: Callable[[Shapes], str]
    size: Callable[[Shapes], str] = lambda shapes: ""
    doubt: Callable[[Shapes], str] = lambda shapes: ""
    twins: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for side, names in (
            ("diffusers", [name for row in self.rows for name in row.sources]),
            ("comfy", [row.comfy for row in self.rows]),
        ):
            if doubled := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"key map {self.network}: {sorted(doubled)} stand in two rows of {side} names")
        for row in self.rows:
            if {name.count("{i}") for name in (*row.sources, row.comfy)} not in ({0}, {1}):
                raise ValueError(f"key map {self.network}: the row {row} must have one {{i}} in every name or none")

    def to_comfy(self, name: str) -> str:
        """The ComfyUI parameter (without ``diffusion_model.``) a diffusers one is, or is rows of.

        Raises UnknownKeyError.
        """
        row, number = self._find(name, self._by_diffusers, "diffusers")
        return row.comfy.replace("{i}", number)

    def to_diffusers(self, name: str) -> str:
        """diffusers' name of a ComfyUI parameter (without ``diffusion_model.``).

        Raises UnknownKeyError, also for one that is several weights there.
        """
        first, *others = names = self.sources(name)
        if others:
            raise UnknownKeyError(f"{name!r} is {len(names)} weights in diffusers: {', '.join(names)}")
        return first

    def sources(self, name: str) -> tuple[str, ...]:
        """The diffusers names of the weights that a ComfyUI parameter is made of. Raises UnknownKeyError."""
        row, number = self._find(name, self._by_comfy, "comfy")
        return tuple(source.replace("{i}", number) for source in row.sources)

    def recipes_to_comfy(
        self, infos: Mapping[str, Shaped], names: Mapping[str, str] | None = None
    ) -> dict[str, Recipe]:
        """Every ComfyUI parameter that these diffusers parameters make.

        ``names``: what the recipes are to call the diffusers parameters, as a file may call them otherwise.
        Raises UnknownKeyError, and ValueError naming the parts of a fused parameter that are not there.
        """
        recipes: dict[str, Recipe] = {}
        names = names or dict(zip(infos, infos, strict=True))
        for name, info in infos.items():
            row, number = self._find(name, self._by_diffusers, "diffusers")
            target = row.comfy.replace("{i}", number)
            if row.swapped:
                recipes[target] = Recipe.swapped(names[name], info.shape[0])
            elif len(row.sources) == 1:
                recipes[target] = Recipe((Part(names[name]),))
            elif target not in recipes:
                sources = [source.replace("{i}", number) for source in row.sources]
                if lost := [each for each in sources if each not in infos]:
                    raise ValueError(f"{', '.join(lost)} missing, a part of {target}: the file is not whole")
                recipes[target] = Recipe.fused(map(names.__getitem__, sources))
        return recipes

    def recipes_to_diffusers(
        self, infos: Mapping[str, Shaped], names: Mapping[str, str] | None = None
    ) -> dict[str, Recipe]:
        """Every diffusers parameter that these ComfyUI parameters (without prefix) make; ``names`` as above.

        Raises UnknownKeyError, and ValueError for a fused parameter that cannot be cut as the table says.
        """
        recipes: dict[str, Recipe] = {}
        names = names or dict(zip(infos, infos, strict=True))
        for name, info in infos.items():
            row, number = self._find(name, self._by_comfy, "comfy")
            targets = [source.replace("{i}", number) for source in row.sources]
            if len(targets) > 1:
                cuts = _cuts(name, len(targets), infos)
                recipes |= {each: Recipe((Part(names[name], *cut),)) for each, cut in zip(targets, cuts, strict=True)}
            elif row.swapped:
                recipes[targets[0]] = Recipe.swapped(names[name], info.shape[0])
            else:
                recipes[targets[0]] = Recipe((Part(names[name]),))
        return recipes

    def state_to_comfy(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A diffusers state dict under ComfyUI's names. Raises as ``recipes_to_comfy``."""
        return {name: recipe.build(state.__getitem__) for name, recipe in self.recipes_to_comfy(state).items()}

    def state_to_diffusers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other way round, without ``diffusion_model.`` in the names. Raises as ``recipes_to_diffusers``."""
        recipes = self.recipes_to_diffusers(state)
        return {name: recipe.build(state.__getitem__) for name, recipe in recipes.items()}

    def module_to_comfy(self, name: str) -> str:
        """As ``to_comfy``, for a module: ``blocks.0.attn1.to_q`` -> ``blocks.0.self_attn.q``."""
        return self.to_comfy(f"{name}.weight").removesuffix(".weight")

    def module_to_diffusers(self, name: str) -> str:
        """As ``to_diffusers``, for a module."""
        return self.to_diffusers(f"{name}.weight").removesuffix(".weight")

    def detail_layers(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """The modules a detail expert changes in a model with these ComfyUI parameter names.

        Returns those that get low-rank pairs and those that are replaced, in the order of the table.
        """
        names = set(names)
        low_rank, replaced = (over_blocks(modules, names) for modules in (self.low_rank, self.replaced))
        return [m for m in low_rank if f"{m}.weight" in names], [m for m in replaced if f"{m}.weight" in names]

    def comfy_names(self, name: str) -> tuple[str, ...]:
        """All the names that ComfyUI has for a parameter, in its several versions; none for an unknown one."""
        row, number = self._row(name, self._by_comfy)
        return tuple(each.replace("{i}", number) for each in (row.comfy, row.also) if each) if row else ()

    def known(self, names: Iterable[str]) -> list[str]:
        """Those that are parameters of the table in either naming, or that a quantised copy has beside one."""
        tables = self._by_comfy, self._by_diffusers
        spellings = {name: (name, f"{name.rpartition('.')[0]}.weight") for name in names}
        return [name for name in spellings if any(self._row(s, t)[0] for t in tables for s in spellings[name])]

    def lacking(self, names: Iterable[str], there: Collection[str]) -> list[str]:
        """Those of the ComfyUI names that ``there`` has under none of their spellings."""
        absent = [name for name in names if name not in there]
        return [name for name in absent if not any(other in there for other in self.comfy_names(name))]

    def spelled(self, name: str) -> str:
        """A ComfyUI parameter's name as this table has it."""
        for piece, meant in self.spellings:
            name = name.replace(piece, meant)
        return name

    def projections(self, module: str) -> int:
        """How many square projections of their own adapter a ComfyUI module holds: 3 with q, k and v in one, else 1.

        What may follow them in the same module (the MLP of HunyuanVideo's single blocks) gets no adapter.
        """
        row, _ = self._row(f"{module}.weight", self._by_comfy)
        return min(len(row.sources), 3) if row else 1

    def adapted(self, module: str) -> list[str]:
        """The diffusers modules with an adapter of their own in a ComfyUI module, in the order of its rows."""
        sources = self.sources(f"{module}.weight")[: self.projections(module)]
        return [source.removesuffix(".weight") for source in sources]

    @cached_property
    def fuses(self) -> bool:
        """Has ComfyUI several of diffusers' weights in one?"""
        return any(len(row.sources) > 1 for row in self.rows)

    def missing(self, names: Collection[str]) -> list[str]:
        """The ComfyUI parameters that a whole backbone with these ComfyUI names would have beside them."""
        groups = tuple(group for group, begins in self._optional if not any(map(begins.match, names)))
        expected = over_blocks([row.comfy for row in self.rows if not row.comfy.startswith(groups)], names)
        return self.lacking(expected, names)

    def _find(self, name: str, table: dict[str, Row], side: str) -> tuple[Row, str]:
        row, number = self._row(name, table)
        if row is None:
            raise UnknownKeyError(self._unknown(name, table, side))
        return row, number

    def _row(self, name: str, table: dict[str, Row]) -> tuple[Row | None, str]:
        # Only a number between dots is a block's: time_embedding.0.weight stands in the table as it is.
        row, number = None if "{" in name else table.get(name), ""
        if row is None and (match := re.search(r"\.(0|[1-9][0-9]*)\.", name)):
            number = match[1]
            row = table.get(f"{name[: match.start(1)]}{{i}}{name[match.end(1) :]}")
        return row, number

    def _unknown(self, name: str, table: dict[str, Row], side: str) -> str:
        near = difflib.get_close_matches(re.sub(r"\.\d+\.", ".{i}.", name, count=1), table, n=1, cutoff=0.0)
        there = "none"
        if near:
            row = table[near[0]]
            there = f"{near[0]} -> {row.comfy if side == 'diffusers' else ' + '.join(row.sources)}"
        return f"{name!r} is no {side} name of the {self.network} network; the nearest row of its key map is {there}"

    @cached_property
    def _optional(self) -> list[tuple[str, re.Pattern]]:
        return [(group, re.compile(re.escape(group).replace(r"\{i\}", r"\d+"))) for group in self.optional]

    @cached_property
    def _by_diffusers(self) -> dict[str, Row]:
        return {name: row for row in self.rows for name in row.sources}

    @cached_property
    def _by_comfy(self) -> dict[str, Row]:
        return {name: row for row in self.rows for name in (row.comfy, row.also) if name}


def _cuts(name: str, parts: int, infos: Mapping[str, Shaped]) -> list[tuple[int, int]]:
    """First and last row of each weight in a fused one: squares first, the last has the rest."""
    weight = f"{name.rpartition('.')[0]}.weight"
    if weight not in infos:
        raise ValueError(f"{weight} missing, so {name} cannot be cut: the file is not whole")
    rows, width = infos[name].shape[0], infos[weight].shape[1]
    starts = [part * width for part in range(parts)]
    if starts[-1] >= rows:
        raise ValueError(f"{name} has {rows} rows, too few for {parts} weights of {width} columns")
    return list(zip(starts, [*starts[1:], rows], strict=True))
