"""What a finished stage hands out: files that ComfyUI reads, with metadata that says what they are."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcm_core.expert.file import save_expert
from dcm_core.expert.fingerprint import fingerprint, norm_tensors
from dcm_core.expert.layers import Expert, layers_of
from dcm_core.expert.metadata import ExpertMetadata

from .backbones.exchange import save_backbone
from .config import Config, ConfigError

if TYPE_CHECKING:
    from .methods.distillation import Distillation

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export_dtype(config: Config) -> torch.dtype:
    """The dtype of exported files. Raises ConfigError."""
    if config.export_dtype not in _DTYPES:
        raise ConfigError(f"export_dtype={config.export_dtype!r} is unknown; use {', '.join(_DTYPES)}.")
    return _DTYPES[config.export_dtype]


def export_backbone(path: Path, config: Config, state: Mapping[str, Tensor]) -> None:
    """A whole backbone, for ComfyUI's `diffusion_models`; state under ComfyUI's names."""
    metadata = {"dcm.family": config.backbone.family, "dcm.trained_with": trained_with(config)}
    save_backbone(path, state, export_dtype(config), metadata)


def export_semantic(path: Path, method: "Distillation") -> None:
    """A semantic expert as full difference to the teacher."""
    backbone, base = method.backbone, method.backbone.comfy_state(method.teacher)
    state = backbone.comfy_state(method.student)
    layers, parameters = layers_of(
        {name: tensor.float() - base[name].float() for name, tensor in state.items()}
    )
    metadata = _metadata(method, "semantic", backbone_fingerprint(backbone.family, base))
    metadata = replace(metadata, fingerprint=backbone_fingerprint(backbone.family, state))
    _save(path, method.config, Expert(metadata, layers, parameters))


def export_detail(path: Path, method: "Distillation", base: torch.nn.Module, base_fingerprint: str) -> None:
    """A detail expert as low-rank pairs, and differences of replaced layers to the semantic expert `base`."""
    layers = method.backbone.adapter_layers(method.student, base)
    metadata = _metadata(method, "detail", base_fingerprint)
    metadata = replace(metadata, rank=method.options.rank, alpha=method.options.alpha)
    _save(path, method.config, Expert(metadata, layers))


def backbone_fingerprint(family: str, state: Mapping[str, Tensor]) -> str:
    """The fingerprint of a backbone given by its weights under ComfyUI's names."""
    return fingerprint(family, {name: tuple(t.shape) for name, t in state.items()}, norm_tensors(state))


def trained_with(config: Config) -> str:
    """One line that says how a file was made."""
    stage = config.selected()
    how = f"method {stage.method}, {stage.iterations} iterations of {config.stage_data().batch_size}"
    return f"DCM for ComfyUI: stage {config.stage}, {how}, seed {config.seed}"


def _metadata(method: "Distillation", expert: str, base_fingerprint: str) -> ExpertMetadata:
    backbone = method.config.backbone
    return ExpertMetadata(
        expert=expert,
        family=backbone.family,
        backbone=backbone.title or backbone.family,
        schedule=method.schedule,
        guidance=method.options.guidance,
        base_fingerprint=base_fingerprint,
        trained_with=trained_with(method.config),
        title=f"DCM {expert} expert for {backbone.title or backbone.family}",
        complete=True,
    )


def _save(path: Path, config: Config, expert: Expert) -> None:
    dtype = export_dtype(config)
    save_expert(path, expert.map(lambda tensor: tensor.to("cpu", dtype)))
