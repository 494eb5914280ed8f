"""What the pack has to know about a MODEL: its family, its network, and what an expert is checked against."""

import comfy.model_base
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dcm_core.expert.fingerprint import norm_tensors
from ...dcm_core.families.presets import SCHEDULES
from ...dcm_core.schedule.grid import NoiseGrid
from . import cogvideox
from .shapes_world import ShapesLatents

PREFIX = "diffusion_model."
_SEMANTIC = "dcm_semantic_backbone"
_CLASSES = {comfy.model_base.WAN21: "wan", comfy.model_base.HunyuanVideo: "hunyuan_video"}


def family_of(model: ModelPatcher) -> str:
    """The backbone family in DCM's terms. Raises ValueError for a model that no expert exists for."""
    if isinstance(model.get_model_object("latent_format"), ShapesLatents):
        return "shapes"
    for model_class, family in _CLASSES.items():
        if isinstance(model.model, model_class):
            return family
    if cogvideox.MODEL_CLASS and isinstance(model.model, cogvideox.MODEL_CLASS):
        return cogvideox.family_of_cogvideox(network_of(model))
    raise ValueError(
        f"This MODEL is of the class {type(model.model).__name__}, and DCM has experts for {', '.join(SCHEDULES)} "
        "only. Load a Wan, HunyuanVideo or CogVideoX backbone, or use DCM Shapes World."
    )


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
