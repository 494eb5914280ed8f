"""Weights in and out: between a diffusers network and the files ComfyUI reads, by the family's key map."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dcm_core.errors import ExpertFileError
from dcm_core.expert.layers import Difference, Expert
from dcm_core.expert.merge import merged
from dcm_core.families.keymap import KeyMap, UnknownKeyError
from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors

from ..config import ConfigError

_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
State = dict[str, Tensor]


def load_backbone(model: nn.Module, path: str | Path, keymap: KeyMap) -> None:
    """Load a backbone file in ComfyUI layout into model. Raises ConfigError naming what does not fit."""
    try:
        state = {_bare(name): tensor.float() for name, tensor in load_file(path).items()}
        model.load_state_dict(keymap.state_to_diffusers(state))
    except FileNotFoundError:
        raise ConfigError(f"There is no backbone file {path}.") from None
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as a safetensors file: {error}") from None
    except (UnknownKeyError, RuntimeError) as error:
        raise ConfigError(f"{path} does not fit backbone.architecture: {error}") from None


def save_backbone(
    path: Path, state: Mapping[str, Tensor], dtype: torch.dtype, metadata: dict[str, str]
) -> None:
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
        raise ConfigError(
            f"The {expert.metadata.expert} expert does not fit this backbone: {error}"
        ) from None


def full_difference(state: State, base: State) -> tuple[dict[str, Difference], State]:
    """(layers, bare Parameters) that make base into state; both under ComfyUI's names."""
    layers: dict[str, dict[str, Tensor]] = {}
    bare: State = {}
    for name, tensor in state.items():
        delta = tensor.float() - base[name].float()
        layer, _, kind = name.rpartition(".")
        if kind in ("weight", "bias"):
            layers.setdefault(layer, {})[kind] = delta
        else:
            bare[name] = delta
    return {layer: Difference(**parts) for layer, parts in layers.items()}, bare


def comfy_state(model: nn.Module, keymap: KeyMap) -> State:
    """The weights of a network without adapters, under ComfyUI's names."""
    return keymap.state_to_comfy({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
