"""A backbone in any layout to a MODEL, by the host's own loader: it is given the weights under the names it knows."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dcm_core.backbone.bundle import Read, expert_from_bundle
from ...dcm_core.backbone.layouts import Layout, backbone_recipes, recognise
from ...dcm_core.expert.layers import Expert
from ...dcm_core.families.recipe import Recipe
from ...dcm_core.files.shards import open_weights
from ...dcm_core.files.stream import TensorSource
from .host import loader_options, set_maker
from .model import as_released, declare_semantic, family_of, require_host_class


class Backbone(NamedTuple):
    model: ModelPatcher
    expert: Expert | None  # the detail expert of a released bundle
    description: str


def load_backbone(path: str, weight_dtype: str = "default") -> Backbone:
    """The backbone of a file, a set of shards or a folder, and the detail expert if it is a released bundle.

    Raises ValueError saying what the file looks like where it is no backbone that experts exist for, and
    FileNotFoundError and OSError as the system gives them.
    """
    if not (os.path.isdir(path) or path.endswith((".safetensors", ".sft"))):
        model = comfy.sd.load_diffusion_model(path, **loader_options(weight_dtype))
        return Backbone(model, None, f"{family_of(model).name} backbone, {os.path.splitext(path)[1]} file")
    source = open_weights(path)
    layout = recognise(source.infos)
    require_host_class(layout.family)
    read, expert = reader(source), None
    model = to_model(source, layout, read, weight_dtype)
    set_maker(model, load_again, path, weight_dtype)
    model = as_released(model, family_of(model).schedule.grid)
    if layout.kind == "released":
        expert = expert_from_bundle(layout, source.infos, read)
    if expert or source.metadata.get("dcm.expert") == "semantic":
        declare_semantic(model)
    return Backbone(model, expert, layout.describe())


def load_again(path: str, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """The MODEL once more: newer hosts ask for each further GPU, and for one without Dynamic VRAM."""
    source = open_weights(path)
    return to_model(source, recognise(source.infos), reader(source), weight_dtype, disable_dynamic)


def reader(source: TensorSource) -> Read:
    """Gives each tensor the way the host reads its own: mapped from the file, and in memory only where it is used."""
    state: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if not state:
            for path in source.paths:
                state.update(comfy.utils.load_torch_file(str(path)))
        return state[name]

    return read


def to_model(
    source: TensorSource, layout: Layout, read: Read, weight_dtype: str, disable_dynamic: bool = False
) -> ModelPatcher:
    """A MODEL of the weights in these files, without a second copy of them in memory.

    Tensors that are only called otherwise are handed over as they are mapped from the file. Those that are made of
    several get untouched memory in the state dict, which costs nothing, and are written straight into the network.
    Raises ValueError for a backbone that this ComfyUI does not know.
    """
    options = loader_options(weight_dtype, disable_dynamic)
    if layout.kind == "comfy" and len(source.paths) == 1:  # with all the host knows of quantised files
        return comfy.sd.load_diffusion_model(str(source.paths[0]), **options)
    recipes = backbone_recipes(layout, source.infos, "comfy")
    composed = {name: recipe for name, recipe in recipes.items() if not recipe.is_copy}
    given = {
        name: torch.empty(recipe.info(source.infos).shape, dtype=read(recipe.parts[0].name).dtype)
        if name in composed
        else recipe.build(read)
        for name, recipe in recipes.items()
    }
    model = comfy.sd.load_diffusion_model_state_dict(given, **options)
    if model is None:
        raise ValueError(
            f"This ComfyUI knows no backbone of this kind ({layout.describe()}): update ComfyUI."
        )
    compose(model.model.diffusion_model, composed, read)
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
