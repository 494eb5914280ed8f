"""What a MODEL is to the pack: its family, is it a semantic expert itself, and what experts are checked against."""

from __future__ import annotations

from importlib import import_module

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.expert.fingerprint import logical_shapes, norm_tensors
from ...dcm_core.families.family import Family
from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.schedule.grid import NoiseGrid
from .host import backbone_class, classes_of, latent_format_of, network_of, tensors_as_loaded, uncompiled

_SEMANTIC = "dcm_semantic_backbone"
_TRAINED = "dcm_semantic_trained_sigmas"
_REMARKED = "dcm_relative_remarked"


def family_of(model: ModelPatcher) -> Family:
    """The backbone family of a MODEL. Raises ValueError for one that no expert exists for."""
    latents = type(latent_format_of(model)).__name__
    classes = classes_of(model)
    candidates = [family for family in FAMILIES.values() if family.host_class in classes]
    for family in candidates:
        if family.host_latents == latents:
            return family
    shapes = shapes_of(model)
    for family in FAMILIES.values():  # whatever the host's class is called
        relative = family.relative(shapes) if family.keymap.recognised_by.comfy in shapes else None
        if relative and relative.other_latents:
            raise ValueError(f"This MODEL is refused: {relative.refusal(family.title)}")
    for family in candidates:
        if not family.host_latents and family.belongs(shapes):
            return family
    raise ValueError(
        f"This MODEL is of the class {type(model.model).__name__}, and DCM has experts for {', '.join(FAMILIES)} "
        "only. Load a backbone of one of these, or use DCM Shapes World."
    )


def remarks_on(model: ModelPatcher) -> list[str]:
    """The warnings that belong to a relative, and to an odd size; none where a node before has given them."""
    if model.get_attachment(_REMARKED):
        return []
    family, shapes = family_of(model), shapes_of(model)
    relative, doubt = family.relative(shapes), family.keymap.doubt(shapes)
    return [*([relative.remark] if relative else []), *([doubt] if doubt else [])]


def declare_remarked(model: ModelPatcher) -> None:
    """Leave on a MODEL that what is to be said of it has been said."""
    model.set_attachments(_REMARKED, True)


def shapes_of(model: ModelPatcher) -> dict[str, tuple[int, ...]]:
    """Shapes by parameter, under the names of the network as it is without torch.compile around its blocks."""
    return uncompiled(logical_shapes(network_of(model)))


def host_class(family: Family) -> type | None:
    """The host's class of a family's backbones; None in a host without it."""
    return backbone_class(family.host_class)


def require_host_class(family: Family) -> None:
    """Raises ValueError on a ComfyUI that does not know the backbones of this family."""
    if host_class(family) is None:
        raise ValueError(f"{family.title} needs ComfyUI {family.host_since} or newer: update ComfyUI.")


def as_released(model: ModelPatcher, grid: NoiseGrid) -> ModelPatcher:
    """The MODEL such that the host's samplers run it on this grid as its family was released: patched, or as it is."""
    patch = family_of(model).host_patch
    return import_module(f".{patch}", __package__).run_as_released(model, grid) if patch else model


def norms_of(model: ModelPatcher) -> dict[str, Tensor]:
    """The norm weights of the backbone as it was loaded, whatever is patched onto the shared network just now.

    None of them where they are stored in one byte: rounded so far, they cannot be told from those of a fine-tune.
    """
    loaded = tensors_as_loaded(model, norm_tensors(network_of(model).state_dict()))
    return loaded if all(tensor.dtype.itemsize > 1 for tensor in loaded.values()) else {}


def declare_semantic(model: ModelPatcher, trained_sigmas: Tensor | None = None) -> None:
    """Leave on a MODEL that it is a whole semantic expert, so that none has to be laid over it.

    ``trained_sigmas``: the noise levels that it was trained for, if it was trained for no others.
    """
    model.set_attachments(_SEMANTIC, True)
    model.set_attachments(_TRAINED, trained_sigmas)


def is_semantic(model: ModelPatcher) -> bool:
    """Is this MODEL a whole semantic expert itself?"""
    return bool(model.get_attachment(_SEMANTIC))


def trained_sigmas_of_semantic(model: ModelPatcher) -> Tensor | None:
    """The noise levels [N + 1] that a whole semantic expert was trained for, if it was trained for no others."""
    return model.get_attachment(_TRAINED)
