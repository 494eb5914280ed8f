"""A backbone file of any layout: what it is, and every tensor of its backbone in either naming."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from math import prod
from operator import attrgetter
from typing import Literal

from torch import Tensor

from ..errors import LayoutError, shortened
from ..expert.check import Report, check
from ..expert.fingerprint import fingerprint, norm_names
from ..expert.layers import Expert
from ..families.blocks import lost_in_blocks
from ..families.keymap import UnknownKeyError
from ..families.presets import FAMILIES
from ..families.recipe import Recipe
from ..families.relatives import Relative, find_relative
from ..files.format import TensorInfo, tensor_size
from ..files.shards import open_weights
from ..files.stream import TensorSource
from ..files.zeros import all_zero, zero_tails
from .layouts import Kind, Layout, recognise, relative_by_name, relatives_of, sort_names, unwrapped, without_wrappers
from .quantised import (
    MULTIPLIED,
    QUANTISED,
    formats,
    layers_in_header,
    layers_said,
    logical_shapes,
    require_as_said,
    require_scales,
)

Read = Callable[[str], Tensor]
_OF_LAYERS = (".weight", ".bias")
_PAGE = 4096


class BackboneFile:
    """A backbone in a file or a set of files. Nothing is read of it but headers until a tensor is asked for.

    * ``layout``: what the file is; ``keymap``: the names of its class of networks
    * ``infos``: dtype and shape of each tensor by its name in the file
    * ``names``: those names by role, from the backbone's own without prefix; ``scales``: of quantised weights

    ``reader`` is how tensors are read: called with ``source`` when the first one is asked for, it returns what gives
    a tensor by its name in the file. By default the file reads itself, within ``with``. Raises LayoutError for what
    is no backbone, saying what it looks like.
    """

    _kind: Kind

    def __init__(self, source: TensorSource, reader: Callable[[TensorSource], Read] = attrgetter("read")):
        self.source, self.infos, self._reader = source, source.infos, reader
        names = unwrapped(self.infos)
        self.keymap, self._kind, prefix = recognise(names)
        self.names, self.scales = sort_names(self.keymap, self._kind, prefix, names)
        self._quantised = {self._own_name(name, prefix): how for name, how in layers_in_header(source.headers).items()}
        require_scales(self.keymap, self._weights, self.scales, self._quantised)
        # Before the key map is asked, which knows the names of the family's own alone.
        relative = relative_by_name(self.keymap, self._kind, self.names.base)
        self._recipes: dict[str, dict[str, Recipe]] = {}
        try:
            self.layout = self._described(prefix, relative)
        except LayoutError:
            raise
        except ValueError as error:
            raise LayoutError(f"this looks like a {self.keymap.network} backbone, but {error}") from error
        except (LookupError, ArithmeticError) as error:
            raise LayoutError(
                f"this looks like a {self.keymap.network} backbone, but its layers have shapes that none has. Download "
                "it again."
            ) from error

    @classmethod
    def open(cls, path: str | os.PathLike, reader: Callable[[TensorSource], Read] = attrgetter("read")) -> BackboneFile:
        """A file, a shard or its index, or a folder. Raises ValueError for what is no backbone or no whole file, and
        OSError as the system gives it."""
        source = open_weights(path)
        try:
            file = cls(source, reader)
            with source:
                file.require_written()
        except LayoutError as error:
            raise LayoutError(f"{path}: {error}") from error
        return file

    def __enter__(self) -> BackboneFile:
        self.source.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.source.__exit__(*error)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the headers say together, with the backbone's own names where they say how layers are quantised."""
        if not self._quantised:
            return self.source.metadata
        return self.source.metadata | {QUANTISED: json.dumps({"layers": self._quantised})}

    def describe(self) -> str:
        """One line: what the file is. Raises as ``formats`` and ``require_as_said``."""
        self.require_as_said()
        quantised = f", quantised as {' and '.join(self.formats)}" if self.formats else ""
        return self.layout.describe() + quantised

    @cached_property
    def formats(self) -> list[str]:
        """ComfyUI's names of the ways in which the file says that layers are quantised.

        Raises LayoutError where that cannot be read.
        """
        return formats(self._said.values())

    def require_as_said(self) -> None:
        """Raises LayoutError for layers that are not stored as the one of the ``formats`` that they are said to be."""
        require_as_said(self._said, self._weights, self._logical, self._beside)

    @cached_property
    def _said(self) -> dict[str, dict]:
        return layers_said(self._quantised, self.scales, self.read)

    @cached_property
    def read(self) -> Read:
        """Gives a tensor by its name in the file."""
        return self._reader(self.source)

    def build(self, recipe: Recipe) -> Tensor:
        """The tensor; one that is a copy is what was read."""
        return recipe.build(self.read)

    def recipes(self, to: Literal["comfy", "diffusers"]) -> dict[str, Recipe]:
        """How to make every tensor of the backbone in another layout, without prefix, from those of the file.

        Of a released bundle this is the backbone as the semantic expert runs it. A ComfyUI file to ``comfy`` keeps
        everything it has, tensors of no table included. Raises LayoutError for a tensor that fits no row, one that
        is missing, and quantised weights that the other layout has no names for.
        """
        if to not in self._recipes:
            self._recipes[to] = self._made(to)
        return self._recipes[to]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by ComfyUI's names, as the network has them however its weights are packed."""
        if self._kind == "comfy":
            return self._logical
        return {name: recipe.info(self.infos).shape for name, recipe in self._to_comfy.items()}

    @cached_property
    def norms(self) -> dict[str, Tensor]:
        """The tensors that tell this backbone from others of its kind, by ComfyUI's names."""
        recipes = self.recipes("comfy")
        return {name: self.build(recipes[name]) for name in norm_names(self.shapes)}

    @cached_property
    def fingerprint(self) -> str:
        """As experts over this backbone name it."""
        return fingerprint(self.layout.family.name, self.shapes, self.norms)

    def require_written(self) -> None:
        """Raises LayoutError for weight matrices that were never written, or not to their end.

        Matrices of nothing but zeros, which no trained network has, nor do relatives in what they add, and scales that
        make such of others. And a matrix of which more than a last row is zero, as is all that follows in its file: a
        row may be zero, since a channel can die.
        """
        # Of a bundle the detail expert's too, but for the halves of pairs that are zero before training.
        names = [*self.names.base.values(), *self.names.twins.values(), *self.names.down.values()]
        matrices = [name for name in names if name.endswith(".weight") and len(self.infos[name].shape) > 1]
        scales = [there for name, there in self.scales.items() if name.endswith(MULTIPLIED)]
        if empty := all_zero(self.source, [*matrices, *scales]):
            raise LayoutError(
                f"{len(empty)} weights hold nothing but zeros ({shortened(empty, 4)}): the file was never written to "
                "its end, as after a download that stopped. Download it again."
            )
        tails = zero_tails(self.source)
        if half := [name for name in matrices if tails.get(name, 0) >= _dead_rows(self.infos[name])]:
            raise LayoutError(
                f"from the middle of {shortened(half)} to its end the file holds nothing but zeros, as after a "
                "download that stopped. Download it again."
            )

    def check_fit(self, expert: Expert) -> Report:
        """What ``check`` finds. Raises ExpertFileError for an expert that is for another backbone."""
        family = FAMILIES.get(expert.metadata.family)
        # Families that share a class of networks share its key map.
        if family is None or family.keymap is not self.keymap:
            family = self.layout.family
        report = check(expert, self.shapes, self.norms, family.name)
        report.raise_if_wrong()
        return report

    @cached_property
    def _weights(self) -> dict[str, TensorInfo]:
        return {name: self.infos[there] for name, there in self.names.base.items()}

    @property
    def _layers(self) -> list[str]:
        """The backbone's own names, without what a quantised copy has beside a weight."""
        base = self.names.base
        return [name for name in base if name.endswith(_OF_LAYERS) or f"{name.rpartition('.')[0]}.weight" not in base]

    @cached_property
    def _logical(self) -> dict[str, tuple[int, ...]]:
        return logical_shapes(self._weights, self._beside)

    @cached_property
    def _beside(self) -> dict[str, TensorInfo]:
        """What stands beside quantised weights."""
        return {name: self.infos[there] for name, there in self.scales.items()}

    @cached_property
    def _to_comfy(self) -> dict[str, Recipe]:
        """From diffusers' names, whether or not all is there."""
        return self.keymap.recipes_to_comfy(self._weights, self.names.base)

    def _own_name(self, layer: str, prefix: str) -> str:
        """The layer of that name in the file, renamed as its tensors are."""
        bare = without_wrappers(layer).removeprefix(prefix)
        return self.keymap.spelled(f"{bare}.weight").removesuffix(".weight")

    def _described(self, prefix: str, relative: Relative | None) -> Layout:
        title, relatives = relatives_of(self.keymap)
        relative = relative or find_relative(relatives, (), self.shapes)
        if relative and relative.other_latents:
            raise LayoutError(relative.refusal(title))
        # Before anything is told from the shapes, since it is told from those of layers that may be lost.
        self._require_whole(relative)
        dtypes: Counter[str] = Counter()
        for name, info in self._weights.items():
            dtypes[info.dtype] += prod(self._logical[name])
        families = [family for family in FAMILIES.values() if family.keymap is self.keymap]
        return Layout(
            family=next(family for family in families if family.belongs(self.shapes)),
            kind=self._kind,
            prefix=prefix,
            variant=(relative.named(self.keymap.size(self.shapes)) if relative else self.keymap.variant(self.shapes)),
            dtype=dtypes.most_common(1)[0][0],
            scaled=bool(self.scales),
            rank=max([self.infos[name].shape[0] for name in self.names.down.values()], default=None),
            parameters=dtypes.total(),
            relative=relative,
            doubt=self.keymap.doubt(self.shapes),
        )

    def _made(self, to: Literal["comfy", "diffusers"]) -> dict[str, Recipe]:
        if self._kind == to == "comfy":
            return {name: Recipe.copy(there) for name, there in {**self.names.base, **self.scales}.items()}
        if self.scales:
            raise LayoutError(
                f"the weights are quantised, with scales ({shortened(self.scales, 2)}) that other layouts have no "
                "names for: convert the bf16 or fp16 file instead, or use this one as it is in ComfyUI."
            )
        if self._kind == "comfy":
            try:
                recipes = self.keymap.recipes_to_diffusers(self._weights, self.names.base)
            except UnknownKeyError as error:
                relative = self.layout.relative
                raise LayoutError(relative.untranslated if relative else str(error)) from error
            except ValueError as error:
                raise LayoutError(str(error)) from error
        elif to == "comfy":
            recipes = self._to_comfy
        else:
            recipes = {name: Recipe.copy(there) for name, there in self.names.base.items()}
        return recipes

    def _require_whole(self, relative: Relative | None) -> None:
        """Raises LayoutError for a file without all tensors of the family's network, and of what a relative adds."""
        lost, what = self.keymap.missing(self.shapes), "tensors"
        if relative and not lost:
            what = f"parts of {relative.named()}"
            lost = relative.lost(self.names.base) or lost_in_blocks(self._layers)
        if lost:
            raise LayoutError(
                f"{len(lost)} {what} are missing ({shortened(lost)}): the file is cut off, or a part of a sharded "
                "model. Download it again, or open the folder with all its parts."
            )


def _dead_rows(info: TensorInfo) -> int:
    """More bytes than may be zero at the end of a matrix without being a sign of anything."""
    return max(_PAGE, 2 * tensor_size(info) // info.shape[0])
