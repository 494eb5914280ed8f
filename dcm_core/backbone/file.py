"""A backbone file of any layout, opened once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import LayoutError
from ..expert.check import Report, check
from ..expert.fingerprint import norm_tensors
from ..expert.layers import Expert
from ..families.presets import FAMILIES
from ..families.recipe import Recipe
from ..files.shards import open_weights
from ..files.stream import TensorSource
from .layouts import Layout, backbone_recipes, recognise


@dataclass(frozen=True)
class Backbone:
    """A backbone file (or set of files) of any layout. Use as a context manager to read its tensors."""

    source: TensorSource
    layout: Layout

    @classmethod
    def open(cls, path: str | os.PathLike) -> Backbone:
        """Raises ValueError for what is no backbone or no whole file, and OSError as the system gives it."""
        source = open_weights(path)
        try:
            return cls(source, recognise(source.infos))
        except LayoutError as error:
            raise LayoutError(f"{path}: {error}") from error

    def __enter__(self) -> Backbone:
        self.source.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.source.__exit__(*error)

    def recipes(self, to: Literal["comfy", "diffusers"]) -> dict[str, Recipe]:
        """Every tensor of the backbone in another layout. Raises LayoutError."""
        return backbone_recipes(self.layout, self.source.infos, to)

    def build(self, recipe: Recipe) -> Tensor:
        """The tensor, in memory of its own."""
        return recipe.build(self.source.read)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by ComfyUI's names."""
        return {name: recipe.info(self.source.infos).shape for name, recipe in self.recipes("comfy").items()}

    def norms(self) -> dict[str, Tensor]:
        """The tensors that tell this backbone from others of its kind, by ComfyUI's names."""
        shapes, recipes = self.shapes(), self.recipes("comfy")
        chosen = norm_tensors({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        return {name: self.build(recipes[name]) for name in chosen}

    def check_fit(self, expert: Expert) -> Report:
        """What ``check`` finds. Raises ExpertFileError for an expert that is for another backbone."""
        family = FAMILIES.get(expert.metadata.family)
        # Families that share a class of networks share its key map.
        same = family is not None and family.keymap is self.layout.keymap
        here = family if same else self.layout.family
        report = check(expert, self.shapes(), self.norms(), here.name)
        report.raise_if_wrong()
        return report
