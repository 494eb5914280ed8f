"""What a finished stage hands out: files that ComfyUI reads, with metadata that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dcm_core.expert.file import save_expert
from dcm_core.expert.fingerprint import fingerprint, norm_tensors
from dcm_core.expert.layers import Expert, Layer
from dcm_core.expert.merge import layers_of
from dcm_core.expert.metadata import ExpertMetadata

from .config import Config
from .networks.exchange import save_backbone

State = dict[str, Tensor]


class GuidanceCarried(Protocol):
    """What a method's options say of guidance.

    ``guidance``: the scale of classifier-free guidance that the expert carries. ``embedded_guidance``: the one that
    its network was told, if it is told one.
    """

    guidance: float
    embedded_guidance: float | None


class LowRankCarried(GuidanceCarried, Protocol):
    """The same, and the size of the adapters."""

    rank: int | Literal["whole"]
    alpha: float


def export_dtype(config: Config) -> torch.dtype:
    """The dtype of exported files."""
    return getattr(torch, config.export_dtype)


def export_backbone(path: Path, config: Config, state: State, trained_steps: int | None = None) -> None:
    """A whole backbone, for ComfyUI's ``diffusion_models``; ``state`` under ComfyUI's names.

    ``trained_steps`` as for ``export_semantic``.
    """
    metadata = {"dcm.family": config.backbone.family, "dcm.trained_with": trained_with(config)}
    if trained_steps is not None:
        metadata["dcm.trained_steps"] = str(trained_steps)
    save_backbone(path, state, export_dtype(config), metadata)


def export_semantic(
    path: Path,
    config: Config,
    base: State,
    state: State,
    options: GuidanceCarried,
    trained_steps: int | None = None,
) -> None:
    """A semantic expert as full difference of ``state`` to ``base``, both under ComfyUI's names.

    ``trained_steps``: of the run whose noise levels it was trained for, if it was trained for no others.
    """
    layers, parameters = layers_of({name: tensor.float() - base[name].float() for name, tensor in state.items()})
    family = config.backbone.family
    metadata = replace(
        _metadata(config, "semantic", options, backbone_fingerprint(family, base)),
        fingerprint=backbone_fingerprint(family, state),
        trained_steps=trained_steps,
    )
    _save(path, config, Expert(metadata, layers, parameters))


def export_adapter(
    path: Path,
    config: Config,
    expert: str,
    layers: Mapping[str, Layer],
    options: LowRankCarried,
    base_fingerprint: str,
    fingerprint: str = "",
    trained_steps: int | None = None,
) -> None:
    """An expert as low-rank pairs and differences of replaced layers, by ComfyUI module name.

    ``base_fingerprint``: of what the layers lie over; ``fingerprint``: of what a semantic expert makes of it;
    ``trained_steps`` as for ``export_semantic``.
    """
    metadata = _metadata(config, expert, options, base_fingerprint)
    changed: dict[str, Any] = {"fingerprint": fingerprint, "trained_steps": trained_steps}
    if options.rank != "whole":
        changed |= {"rank": options.rank, "alpha": options.alpha}
    if expert == "semantic":
        changed["complete"] = False  # a complete one changes every weight
    _save(path, config, Expert(replace(metadata, **changed), dict(layers)))


def backbone_fingerprint(family: str, state: State) -> str:
    """The fingerprint of a backbone given by its weights under ComfyUI's names."""
    return fingerprint(family, {name: tuple(t.shape) for name, t in state.items()}, norm_tensors(state))


def trained_with(config: Config) -> str:
    """One line that says how a file was made."""
    stage = config.selected()
    how = f"method {stage.method}, {stage.iterations} iterations of {config.stage_data().batch_size}"
    return f"DCM for ComfyUI: stage {config.stage}, {how}, seed {config.seed}"


def _metadata(config: Config, expert: str, options: GuidanceCarried, base_fingerprint: str) -> ExpertMetadata:
    return ExpertMetadata(
        expert=expert,
        family=config.backbone.family,
        backbone=config.title,
        schedule=config.expert_schedule(),
        guidance=options.guidance,
        embedded_guidance=options.embedded_guidance,
        base_fingerprint=base_fingerprint,
        trained_with=trained_with(config),
        title=f"DCM {expert} expert for {config.title}",
        complete=True,
        pair=config.pair is not None,
    )


def _save(path: Path, config: Config, expert: Expert) -> None:
    dtype = export_dtype(config)
    save_expert(path, expert.map(lambda tensor: tensor.to("cpu", dtype)))
