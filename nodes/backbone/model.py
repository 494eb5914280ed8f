"""What the pack has to know about a MODEL: its family, its network, and what an expert is checked against."""

import comfy.model_base
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dcm_core.expert.fingerprint import logical_shapes, norm_tensors
from ...dcm_core.families.family import Family
from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.schedule.grid import NoiseGrid
from . import cogvideox

PREFIX = "diffusion_model."
_SEMANTIC = "dcm_semantic_backbone"


def family_of(model: ModelPatcher) -> Family:
    """The backbone family of a MODEL. Raises ValueError for one that no expert exists for."""
    latents = type(model.get_model_object("latent_format")).__name__
    candidates = [family for family in FAMILIES.values() if is_host_class(model, family)]
    for family in candidates:
        if family.host_latents == latents:
            return family
    shapes = logical_shapes(network_of(model)) if len(candidates) > 1 else {}
    for family in candidates:
        if not family.host_latents and family.belongs(shapes):
            return family
    raise ValueError(
        f"This MODEL is of the class {type(model.model).__name__}, and DCM has experts for {', '.join(FAMILIES)} "
        "only. Load a Wan, HunyuanVideo or CogVideoX backbone, or use DCM Shapes World."
    )


def is_host_class(model: ModelPatcher, family: Family) -> bool:
    """Is this MODEL of the class that the family's backbones have in the host?"""
    found = host_class(family)
    return found is not None and isinstance(model.model, found)


def host_class(family: Family) -> type | None:
    """The host's class of a family's backbones; None in a host without it."""
    return getattr(comfy.model_base, family.host_class, None)


def require_host_class(family: Family) -> None:
    """Raises ValueError on a ComfyUI that does not know the backbones of this family."""
    if host_class(family) is None:
        raise ValueError(f"{family.title} needs ComfyUI {family.host_since} or newer: update ComfyUI.")


def network_of(model: ModelPatcher) -> nn.Module:
    """The network itself, also where a node has put a compiled one in its place."""
    network = model.get_model_object("diffusion_model")
    return getattr(network, "_orig_mod", network)


def as_released(model: ModelPatcher, grid: NoiseGrid) -> ModelPatcher:
    """The MODEL as the host's samplers must have it to run a backbone of this grid: CogVideoX patched, others as is."""
    return model if grid.prediction == "flow" else cogvideox.run_as_released(model, grid, network_of(model))


def norms_of(model: ModelPatcher) -> dict[str, Tensor]:
    """The norm weights of the backbone as it was loaded, whatever is patched onto the shared network just now.

    None of them where they are stored in one byte: rounded so far, they cannot be told from those of a fine-tune.
    """
    norms = norm_tensors(network_of(model).state_dict())
    backups = {name: model.backup.get(PREFIX + name) for name in norms}
    loaded = {name: backups[name].weight if backups[name] else tensor for name, tensor in norms.items()}
    return loaded if all(tensor.dtype.itemsize > 1 for tensor in loaded.values()) else {}


def mark_as_semantic(model: ModelPatcher) -> None:
    """Note that this MODEL is a whole semantic expert, so that none has to be laid over it."""
    model.set_attachments(_SEMANTIC, True)


def is_semantic(model: ModelPatcher) -> bool:
    return bool(model.get_attachment(_SEMANTIC))
