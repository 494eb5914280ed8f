"""The weights of a backbone file, streamed into a network: in memory are the network and one tensor of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dcm_core.backbone.file import BackboneFile
from dcm_core.errors import shortened
from dcm_core.families.keymap import KeyMap
from dcm_core.families.recipe import Recipe
from dcm_core.files.format import tensor_size
from dcm_core.files.stream import TensorSource

from ..errors import ConfigError
from .precision import lowered


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """What is built inside this context has its parameters on the meta device.

    Buffers are computed as ever: tables of positions stand in no file.
    """
    hook: Any = _on_meta  # PyTorch's own annotation knows no hook that returns a parameter
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def opened_backbone(path: str | Path, keymap: KeyMap) -> Iterator[BackboneFile]:
    """A file, a shard or its index, or a folder. Raises ConfigError for what is no backbone with this key map, and
    for what goes wrong while it is read.
    """
    try:
        file = BackboneFile.open(path)
        if file.keymap is not keymap:
            raise ConfigError(f"{path} is {file.layout.describe()}: that is no backbone for this backbone.name.")
        with file:
            yield file
    except FileNotFoundError:
        raise ConfigError(f"There is no backbone at {path}.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def load_weights(model: nn.Module, file: BackboneFile, dtype: torch.dtype = torch.float32) -> None:
    """Give a diffusers transformer the weights of an opened file; of a released bundle, the semantic expert.

    ``dtype``: of what is ``lowered`` while frozen; all else is in float32. Raises ConfigError naming what does not fit.
    """
    recipes = file.recipes("diffusers")
    if wrong := _unlike(model, file, recipes):
        raise ConfigError(
            f"{file.source.paths[0]} is {file.layout.variant}, which does not fit backbone.size and "
            f"backbone.architecture: {shortened(wrong, 4)}."
        )
    narrow = lowered(model)
    read = _into_one_place(file.source)
    for name in sorted(recipes, key=lambda name: file.source.position(recipes[name].parts[0].name)):
        _put(model, name, _built(recipes[name], read, dtype if name in narrow else torch.float32))


def _on_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.to("meta"), parameter.requires_grad)


def _unlike(model: nn.Module, file: BackboneFile, recipes: Mapping[str, Recipe]) -> list[str]:
    """What of the network the file has not, or in another shape, and the other way round."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: recipe.info(file.infos).shape for name, recipe in recipes.items()}
    shapes = [
        f"{name} is {list(found[name])} and not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    lost = [f"{name} is missing" for name in wanted if name not in found]
    return shapes + lost + [f"{name} is too many" for name in found if name not in wanted]


def _into_one_place(source: TensorSource) -> Callable[[str], Tensor]:
    """Gives a tensor until the next one is asked for: with memory of its own for each, the heap would have holes.

    The same one again, as for all the rows of a fused weight, is not read again.
    """
    memory = torch.empty(max(map(tensor_size, source.infos.values())), dtype=torch.uint8)
    return lru_cache(maxsize=1)(lambda name: source.read(name, memory=memory))


def _built(recipe: Recipe, read: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
    """The tensor, in memory of its own. Under diffusers' names it is made of a single one of the file."""
    (part, *more) = recipe.parts
    whole = recipe.build(read) if more else read(part.name)[part.start : part.stop]
    return whole.to(dtype, copy=True)


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    module, _, own = name.rpartition(".")
    owner = model.get_submodule(module)
    setattr(owner, own, nn.Parameter(tensor, getattr(owner, own).requires_grad))
