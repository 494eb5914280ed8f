"""Names of a weight in diffusers and in ComfyUI: one table per backbone family, read in both directions."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import NamedTuple, TypeVar

Value = TypeVar("Value")


class UnknownKeyError(ValueError):
    """A name no row of the table maps. The message names the nearest row."""


class Row(NamedTuple):
    """One weight in both namings; ``{i}`` stands for a block's number, once on both sides or on neither."""

    diffusers: str
    comfy: str


def layers(diffusers: str, comfy: str) -> tuple[Row, Row]:
    """The two rows of a layer with weight and bias."""
    return Row(f"{diffusers}.weight", f"{comfy}.weight"), Row(f"{diffusers}.bias", f"{comfy}.bias")


@dataclass(frozen=True)
class KeyMap:
    """A family's bijection between diffusers and ComfyUI names, and the layers its detail expert changes.

    ``low_rank`` and ``replaced`` are ComfyUI module names (with ``{i}``): the ones that get low-rank pairs,
    and the ones that get a full difference. Raises ValueError for a table that is no bijection.
    """

    family: str
    rows: tuple[Row, ...]
    low_rank: tuple[str, ...]
    replaced: tuple[str, ...]

    def __post_init__(self) -> None:
        for side in ("diffusers", "comfy"):
            names = [getattr(row, side) for row in self.rows]
            if doubled := {name for name in names if names.count(name) > 1}:
                raise ValueError(
                    f"key map {self.family}: {sorted(doubled)} stand in two rows of {side} names"
                )
        for row in self.rows:
            if row.diffusers.count("{i}") != row.comfy.count("{i}") or row.diffusers.count("{i}") > 1:
                raise ValueError(
                    f"key map {self.family}: the row {row} must have one {{i}} on both sides or none"
                )

    def to_comfy(self, name: str) -> str:
        """ComfyUI's name (without ``diffusion_model.``) of a diffusers parameter. Raises UnknownKeyError."""
        return self._translate(name, self._by_diffusers, "diffusers")

    def to_diffusers(self, name: str) -> str:
        """diffusers' name of a ComfyUI parameter (without ``diffusion_model.``). Raises UnknownKeyError."""
        return self._translate(name, self._by_comfy, "comfy")

    def state_to_comfy(self, state: Mapping[str, Value]) -> dict[str, Value]:
        """A diffusers state dict under ComfyUI's names. Raises UnknownKeyError."""
        return {self.to_comfy(name): value for name, value in state.items()}

    def state_to_diffusers(self, state: Mapping[str, Value]) -> dict[str, Value]:
        """The other way round, without ``diffusion_model.`` in the names. Raises UnknownKeyError."""
        return {self.to_diffusers(name): value for name, value in state.items()}

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
        blocks = sorted({int(number) for name in names for number in re.findall(r"^blocks\.(\d+)\.", name)})
        return _over_blocks(self.low_rank, blocks), _over_blocks(self.replaced, blocks)

    def _translate(self, name: str, table: dict[str, str], side: str) -> str:
        # Only a number between dots is a block's: time_embedding.0.weight stands in the table as it is.
        number = None
        translated = None if "{" in name else table.get(name)
        if translated is None and (match := re.search(r"\.(0|[1-9][0-9]*)\.", name)):
            number = match[1]
            translated = table.get(f"{name[: match.start(1)]}{{i}}{name[match.end(1) :]}")
        if translated is None:
            raise UnknownKeyError(self._unknown(name, table, side))
        return translated if number is None else translated.replace("{i}", number)

    def _unknown(self, name: str, table: dict[str, str], side: str) -> str:
        near = difflib.get_close_matches(re.sub(r"\.\d+\.", ".{i}.", name, count=1), table, n=1, cutoff=0.0)
        row = f"{near[0]} -> {table[near[0]]}" if near else "none"
        return (
            f"{name!r} is no {side} name of the {self.family} family; the nearest row of its key map is {row}"
        )

    @cached_property
    def _by_diffusers(self) -> dict[str, str]:
        return dict(self.rows)

    @cached_property
    def _by_comfy(self) -> dict[str, str]:
        return {comfy: diffusers for diffusers, comfy in self.rows}


# The Shapes world is a small backbone of the Wan class.
_MODULES = {"wan": "wan", "shapes": "wan"}


def keymap(family: str) -> KeyMap:
    """The table of a family. Raises ValueError for one without a table."""
    if family not in _MODULES:
        raise ValueError(f"no key map for family {family!r}; known families: {', '.join(sorted(_MODULES))}")
    return import_module(f".{_MODULES[family]}", __name__).KEYMAP


def _over_blocks(patterns: Iterable[str], blocks: list[int]) -> list[str]:
    return [
        pattern.replace("{i}", str(block))
        for pattern in patterns
        for block in (blocks if "{i}" in pattern else blocks[:1] or [0])
    ]
