"""A backbone in any layout to a MODEL, by the host's own loader: it is given the weights under the names it knows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...dcm_core.backbone.bundle import expert_from_bundle
from ...dcm_core.backbone.file import BackboneFile, Read
from ...dcm_core.expert.layers import Expert
from ...dcm_core.families.recipe import Recipe
from ...dcm_core.files.stream import TensorSource
from .host import loader_options, set_maker
from .model import as_released, declare_semantic, family_of, require_host_class


class Loaded(NamedTuple):
    """What DCM Load Backbone gives; ``expert`` is the detail expert of a released bundle."""

    model: ModelPatcher
    expert: Expert | None
    description: str


def load_backbone(path: str, weight_dtype: str = "default") -> Loaded:
    """The backbone of a file, a set of shards or a folder, and the detail expert if it is a released bundle.

    Raises ValueError saying what the file looks like where it is no backbone that experts exist for, and
    FileNotFoundError and OSError as the system gives them.
    """
    if not (os.path.isdir(path) or path.endswith((".safetensors", ".sft"))):
        model = comfy.sd.load_diffusion_model(path, **loader_options(weight_dtype))
        return Loaded(model, None, f"{family_of(model).name} backbone, {os.path.splitext(path)[1]} file")
    file = BackboneFile.open(path, mapped)
    require_host_class(file.layout.family)
    model = to_model(file, weight_dtype)
    set_maker(model, load_again, path, weight_dtype)
    model = as_released(model, family_of(model).schedule.grid)
    expert = expert_from_bundle(file) if file.layout.kind == "released" else None
    if expert or file.source.metadata.get("dcm.expert") == "semantic":
        declare_semantic(model)
    return Loaded(model, expert, file.layout.describe())


def load_again(path: str, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """The MODEL once more: newer hosts ask for each further GPU, and for one without Dynamic VRAM."""
    return to_model(BackboneFile.open(path, mapped), weight_dtype, disable_dynamic)


def mapped(source: TensorSource) -> Read:
    """Gives each tensor the way the host reads its own: mapped from the file, and in memory only where it is used."""
    state = {}
    for path in source.paths:
        state.update(comfy.utils.load_torch_file(str(path)))
    return state.__getitem__


def to_model(file: BackboneFile, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A MODEL of the weights in this file, without a second copy of them in memory.

    Tensors that are only called otherwise are handed over as they are mapped from the file. Those that are made of
    several get untouched memory in the state dict, which costs nothing, and are written straight into the network.
    Raises ValueError for a backbone that this ComfyUI does not know.
    """
    options = loader_options(weight_dtype, disable_dynamic)
    paths = file.source.paths
    if file.layout.kind == "comfy" and len(paths) == 1:  # with all the host knows of quantised files
        return comfy.sd.load_diffusion_model(str(paths[0]), **options)
    given, composed = {}, {}
    for name, recipe in file.recipes("comfy").items():
        if recipe.is_copy:
            given[name] = file.read(recipe.parts[0].name)
        else:
            composed[name] = recipe
            like = file.read(recipe.parts[0].name)
            given[name] = torch.empty(recipe.info(file.infos).shape, dtype=like.dtype)
    model = comfy.sd.load_diffusion_model_state_dict(given, **options)
    if model is None:
        raise ValueError(f"This ComfyUI knows no backbone of this kind ({file.layout.describe()}): update ComfyUI.")
    compose(model.model.diffusion_model, composed, file.read)
    return model


def compose(network: nn.Module, recipes: Mapping[str, Recipe], read: Read) -> None:
    """Write the rows of each recipe into the parameter it is for, in the parameter's own dtype."""
    parameters = dict(network.named_parameters())
    for name, recipe in recipes.items():
        filled = 0
        for part in recipe.parts:
            rows = read(part.name)[part.start : part.stop]
            parameters[name].data[filled : filled + len(rows)].copy_(rows)
            filled += len(rows)
