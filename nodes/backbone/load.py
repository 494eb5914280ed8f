"""A backbone in any layout to a MODEL, by the host's own loader: it is given the weights under the names it knows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import NamedTuple

import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dcm_core.backbone.bundle import expert_from_bundle
from ...dcm_core.backbone.file import BackboneFile, Read
from ...dcm_core.backbone.quantised import QUANTISED
from ...dcm_core.expert.layers import Expert
from ...dcm_core.expert.metadata import ExpertMetadata
from ...dcm_core.expert.other_files import what_it_looks_like
from ...dcm_core.families.recipe import Recipe, copies_and_compositions
from ...dcm_core.files.shards import is_safetensors
from ...dcm_core.files.stream import TensorSource
from .host import load_state, loader_options, quantised_formats, set_maker, unlike_the_network, wrong_shapes
from .model import as_released, declare_remarked, declare_semantic, family_of, remarks_on, require_host_class
from .unread import check_read, require_formats


class Loaded(NamedTuple):
    """What DCM Load Backbone gives; ``expert`` is the detail expert of a released bundle."""

    model: ModelPatcher
    expert: Expert | None
    description: str
    warnings: list[str]


def load_backbone(path: str, weight_dtype: str = "default") -> Loaded:
    """The backbone of a file, a set of shards or a folder, and the detail expert if it is a released bundle.

    Raises ValueError saying what the file looks like where it is no backbone that experts exist for, and
    FileNotFoundError and OSError as the system gives them.
    """
    try:
        return _load(path, weight_dtype)
    except ValueError as error:
        if path in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _load(path: str, weight_dtype: str) -> Loaded:
    if not (os.path.isdir(path) or is_safetensors(path)):
        model = load_other(path, weight_dtype)
        kind = f"{family_of(model).name} backbone, {os.path.splitext(path)[1]} file"
        return Loaded(model, None, kind, remarked(model))
    file = BackboneFile.open(path, mapped)
    require_host_class(file.layout.family)
    model, warnings = to_model(file, weight_dtype)
    set_maker(model, load_again, path, weight_dtype)
    model = as_released(model, family_of(model).schedule.grid)
    expert = expert_from_bundle(file) if file.layout.kind == "released" else None
    if expert or file.source.metadata.get("dcm.expert") == "semantic":
        declare_semantic(model, trained_sigmas(file.source.metadata))
    return Loaded(model, expert, file.describe(), [*remarked(model), *warnings])


def trained_sigmas(header: Mapping[str, str]) -> Tensor | None:
    """The noise levels that a whole semantic expert was trained for, if its file says so."""
    return ExpertMetadata.from_header(header).trained_sigmas if "dcm.trained_steps" in header else None


def load_other(path: str, weight_dtype: str) -> ModelPatcher:
    """A file of another format, by the stock loader. Raises ValueError saying what it looks like otherwise."""
    try:
        return comfy.sd.load_diffusion_model(path, **loader_options(weight_dtype))
    except RuntimeError as error:
        if "Could not detect model type" not in str(error):
            raise
        names = comfy.utils.load_torch_file(path)
        raise ValueError(f"{path} is no backbone that ComfyUI knows: {what_it_looks_like(names)}") from error


def remarked(model: ModelPatcher) -> list[str]:
    """What is to be said of this MODEL, by this node and none after it."""
    remarks = remarks_on(model)
    declare_remarked(model)
    return remarks


def load_again(path: str, weight_dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """The MODEL once more: newer hosts ask for each further GPU, and for one without Dynamic VRAM."""
    return to_model(BackboneFile.open(path, mapped), weight_dtype, disable_dynamic)[0]


def mapped(source: TensorSource) -> Read:
    """Gives each tensor the way the host reads its own: mapped from the file, and in memory only where it is used."""
    state = {}
    for path in source.paths:
        state.update(comfy.utils.load_torch_file(str(path)))
    return state.__getitem__


def to_model(file: BackboneFile, weight_dtype: str, disable_dynamic: bool = False) -> tuple[ModelPatcher, list[str]]:
    """A MODEL of the weights in this file, without a second copy of them in memory, and warnings.

    Tensors that are only called otherwise are handed over as they are mapped from the file. Those that are made of
    several get untouched memory in the state dict, which costs nothing, and are written straight into the network.
    Raises ValueError for a backbone that this ComfyUI does not know, or does not read in full.
    """
    recipes = file.recipes("comfy")
    known = quantised_formats()
    require_formats(file.formats, known)
    file.require_as_said()
    copies, composed = copies_and_compositions(recipes)
    read: dict[str, Tensor] = {name: file.read(there) for name, there in copies.items()}
    for name, recipe in composed.items():
        like = file.read(recipe.parts[0].name)
        read[name] = torch.empty(recipe.info(file.infos).shape, dtype=like.dtype)
    given, metadata = {name: read[name] for name in recipes}, file.metadata
    if "float8_e5m2" in known:
        given, metadata = with_formats_said(given, metadata)
    # The loader takes tensors out of the dict that it is given.
    model = load_state(dict(given), metadata, loader_options(weight_dtype, disable_dynamic))
    if model is None:
        raise ValueError(f"This ComfyUI knows no backbone of this kind ({file.layout.describe()}): update ComfyUI.")
    network = model.model.diffusion_model
    if wrong := unlike_the_network(network, file.shapes):
        raise wrong_shapes(wrong)
    warnings = check_read(file.keymap, given, network)
    compose(network, composed, file.read)
    return model, warnings


def with_formats_said(state: dict[str, Tensor], metadata: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An old file in scaled e5m2 as newer ones are written: hosts that read these take every old one for e4m3."""
    layers = [name.removesuffix(".scale_weight") for name in state if name.endswith(".scale_weight")]
    dtypes = {layer: state[f"{layer}.weight"].dtype for layer in layers}
    if "scaled_fp8" not in state or torch.float8_e5m2 not in dtypes.values():
        return state, metadata
    # As the host tells it too: a marker of two numbers asks for products that are not in one byte.
    more = {"full_precision_matrix_mult": True} if state["scaled_fp8"].nelement() == 2 else {}
    said = {layer: {"format": str(dtype).removeprefix("torch."), **more} for layer, dtype in dtypes.items()}
    renamed = {
        name.replace(".scale_weight", ".weight_scale").replace(".scale_input", ".input_scale"): tensor
        for name, tensor in state.items()
        if name != "scaled_fp8" and not (name.endswith(".scale_input") and tensor == 1)
    }
    return renamed, metadata | {QUANTISED: json.dumps({"layers": said})}


def compose(network: nn.Module, recipes: Mapping[str, Recipe], read: Read) -> None:
    """Write the rows of each recipe into the parameter it is for, in the parameter's own dtype."""
    parameters = dict(network.named_parameters())
    for name, recipe in recipes.items():
        filled = 0
        for part in recipe.parts:
            rows = read(part.name)[part.start : part.stop]
            parameters[name].data[filled : filled + len(rows)].copy_(rows)
            filled += len(rows)
