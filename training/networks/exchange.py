"""Weights in and out: between a diffusers network and the files ComfyUI reads, by the family's key map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dcm_core.backbone.file import BackboneFile
from dcm_core.errors import ExpertFileError
from dcm_core.expert.layers import Expert
from dcm_core.expert.merge import merged
from dcm_core.families.keymap import KeyMap, UnknownKeyError
from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors

from ..errors import ConfigError
from ..run.parallel import gathered

State = dict[str, Tensor]


def load_weights(model: nn.Module, path: str | Path, keymap: KeyMap) -> None:
    """Load a backbone of any layout into model; of a released bundle, the semantic expert.

    ``path`` is a file, a shard or its index, or a folder. Raises ConfigError naming what does not fit.
    """
    try:
        file = BackboneFile.open(path)
    except FileNotFoundError:
        raise ConfigError(f"There is no backbone at {path}.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if file.keymap is not keymap:
        raise ConfigError(f"{path} is {file.layout.describe()}: that is no backbone for this backbone.name.")
    try:
        with file:
            recipes = file.recipes("diffusers")
            model.load_state_dict({name: file.build(recipe).float() for name, recipe in recipes.items()})
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{path} does not fit backbone.architecture: {error}") from None


def save_backbone(path: Path, state: Mapping[str, Tensor], dtype: torch.dtype, metadata: dict[str, str]) -> None:
    """Write a whole backbone, given under ComfyUI's names, as a file for `diffusion_models`."""
    tensors = {name: tensor.to("cpu", dtype) for name, tensor in state.items()}
    with atomic_write(path) as file:
        write_tensors(file, tensors, metadata)


def apply_expert(model: nn.Module, expert: Expert, keymap: KeyMap) -> None:
    """Add an expert to the weights of a network without adapters. Raises ConfigError naming what does not fit."""
    try:
        changed = merged(comfy_state(model, keymap), expert)
        model.load_state_dict(keymap.state_to_diffusers(changed))
    except (ExpertFileError, UnknownKeyError) as error:
        raise ConfigError(f"The {expert.metadata.expert} expert does not fit this backbone: {error}") from None


def comfy_state(model: nn.Module, keymap: KeyMap) -> State:
    """The weights of a network without adapters, under ComfyUI's names; as ``gathered`` has them."""
    return keymap.state_to_comfy(gathered(model.state_dict()))
