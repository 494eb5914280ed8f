"""Weights in and out: between a diffusers network and the files ComfyUI reads, by the family's key map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dcm_core.errors import ExpertFileError
from dcm_core.expert.layers import Expert
from dcm_core.expert.merge import merged
from dcm_core.families.keymap import KeyMap, UnknownKeyError
from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors

from ..errors import ConfigError

State = dict[str, Tensor]


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
    """The weights of a network without adapters, under ComfyUI's names."""
    return keymap.state_to_comfy({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
