"""An expert in memory: what it is, and how it changes each layer of a frozen backbone.

Layers carry ComfyUI's module names without the ``diffusion_model.`` prefix (``blocks.0.self_attn.q``). With
``strength`` s, the backbone's output y and input x of a layer:

* ``LowRank``:     y + s * alpha / rank * up(down(x))
* ``FusedLowRank``: the same for each of q, k and v in one layer
* ``Difference``:  y + s * linear(x, weight, bias)
* ``Replacement``: y + s * (linear(x, weight, bias) - y)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .schedule import ExpertSchedule

FORMAT = "1.0"
EXPERTS = ("semantic", "detail")


class ExpertFileError(ValueError):
    """The file is no usable expert, or not one for this backbone. The message says why and what to do."""


@dataclass(frozen=True)
class ExpertMetadata:
    """What an expert file says about itself.

    ``guidance`` is the scale the expert already carries: the CFG scale of its distillation targets (sample
    it with cfg 1), or the embedded guidance it was trained under. ``base_fingerprint`` is the backbone the
    expert is laid over; ``fingerprint`` the backbone after a semantic expert, which a detail expert's base
    is compared with. ``complete`` promises every layer the family's key map lists for this kind of expert.
    ``extra`` keeps metadata this version does not know, so that reading and writing a file loses nothing.
    """

    expert: str
    family: str
    backbone: str
    schedule: ExpertSchedule
    guidance: float
    rank: int | None = None
    alpha: float | None = None
    base_fingerprint: str = ""
    fingerprint: str = ""
    trained_with: str = ""
    title: str = ""
    complete: bool = False
    format: str = FORMAT
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_format(self.format)
        if not self.title:
            object.__setattr__(self, "title", f"{self.backbone} DCM {self.expert} expert")
        if self.expert not in EXPERTS:
            raise ExpertFileError(f"dcm.expert is {self.expert!r}, but must be 'semantic' or 'detail'")
        if not self.family:
            raise ExpertFileError("dcm.family is empty: name the backbone family, for example 'wan'")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ExpertFileError(f"dcm.guidance must be a finite scale of 0 or more, got {self.guidance}")
        if self.rank is not None and self.rank < 1:
            raise ExpertFileError(f"dcm.rank must be 1 or more, got {self.rank}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise ExpertFileError(f"dcm.alpha must be finite, got {self.alpha}")

    @property
    def prediction(self) -> str:
        """What the network predicts: ``flow`` (velocity of flow matching) or ``v_prediction``."""
        return self.schedule.grid.prediction

    def to_header(self) -> dict[str, str]:
        """The metadata as safetensors stores it: strings only, ``dcm.*`` beside the ModelSpec fields."""
        kind = "lora" if self.rank is not None else "difference"
        header = dict(self.extra)
        header |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{self.family}/{kind}",
            "modelspec.title": self.title,
            "modelspec.implementation": "https://arxiv.org/abs/2506.03123",
            "modelspec.prediction_type": self.prediction,
        }
        header |= self.schedule.to_metadata()
        header |= {
            "dcm.format": self.format,
            "dcm.expert": self.expert,
            "dcm.family": self.family,
            "dcm.backbone": self.backbone,
            "dcm.guidance": repr(float(self.guidance)),
            "dcm.complete": "true" if self.complete else "false",
        }
        optional = {
            "dcm.rank": self.rank,
            "dcm.alpha": self.alpha,
            "dcm.base_fingerprint": self.base_fingerprint,
            "dcm.fingerprint": self.fingerprint,
            "dcm.trained_with": self.trained_with,
        }
        return header | {key: str(value) for key, value in optional.items() if value not in (None, "")}

    @classmethod
    def from_header(cls, header: Mapping[str, str]) -> ExpertMetadata:
        """Parse ``to_header``'s strings. Raises ExpertFileError naming a field that is missing or wrong."""
        check_format(_required(header, "dcm.format"))
        try:
            schedule = ExpertSchedule.from_metadata(dict(header))
        except (ValueError, KeyError, TypeError) as error:
            raise ExpertFileError(f"the schedule in the file's metadata is not usable: {error}") from error
        complete = header.get("dcm.complete", "false")
        if complete not in ("true", "false"):
            raise ExpertFileError(f"dcm.complete is {complete!r}, but must be 'true' or 'false'")
        metadata = cls(
            expert=_required(header, "dcm.expert"),
            family=_required(header, "dcm.family"),
            backbone=_required(header, "dcm.backbone"),
            schedule=schedule,
            guidance=_number(header, "dcm.guidance", float),
            rank=_number(header, "dcm.rank", int) if "dcm.rank" in header else None,
            alpha=_number(header, "dcm.alpha", float) if "dcm.alpha" in header else None,
            base_fingerprint=header.get("dcm.base_fingerprint", ""),
            fingerprint=header.get("dcm.fingerprint", ""),
            trained_with=header.get("dcm.trained_with", ""),
            title=header.get("modelspec.title", ""),
            complete=complete == "true",
            format=header["dcm.format"],
        )
        known = metadata.to_header()
        extra = {key: value for key, value in header.items() if key not in known}
        return replace(metadata, extra=extra)


@dataclass(eq=False)
class LowRank:
    """A low-rank pair: ``down`` [rank, in], ``up`` [out, rank]; their product is scaled by ``alpha / rank``."""

    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        if (
            self.down.ndim != 2
            or self.up.ndim != 2
            or self.down.shape[0] != self.up.shape[1]
            or not self.rank
        ):
            raise ExpertFileError(
                "a low-rank pair needs shapes [rank, in] and [out, rank], got "
                f"{list(self.down.shape)} and {list(self.up.shape)}"
            )
        if not math.isfinite(self.alpha):
            raise ExpertFileError(f"alpha must be finite, got {self.alpha}")

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Logical shapes of the backbone tensors this changes, by tensor name inside the layer."""
        return {"weight": (self.up.shape[0], self.down.shape[1])}


@dataclass(eq=False)
class FusedLowRank:
    """Low-rank pairs of the projections that one fused layer begins with, for example q, k and v of a qkv layer.

    ``down`` [parts * rank, in] and ``up`` [parts * in, rank] hold the pairs one below the other: part k changes
    the rows k * in to (k + 1) * in of the ``rows`` that the layer has; the rest of them stay. Each product is
    scaled by ``alpha / rank``.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rows: int

    def __post_init__(self) -> None:
        two = self.down.ndim == self.up.ndim == 2 and self.rank > 0 and self.down.numel() > 0
        fits = two and self.down.shape[0] == self.parts * self.rank
        if not fits or self.up.shape[0] != self.parts * self.down.shape[1] or self.rows < self.up.shape[0]:
            raise ExpertFileError(
                "fused low-rank pairs need shapes [parts * rank, in] and [parts * in, rank] for a layer of at "
                f"least parts * in rows, got {list(self.down.shape)} and {list(self.up.shape)} for {self.rows}"
            )
        if not math.isfinite(self.alpha):
            raise ExpertFileError(f"alpha must be finite, got {self.alpha}")

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def parts(self) -> int:
        return self.down.shape[0] // self.rank

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.rows, self.down.shape[1])}

    @property
    def block(self) -> LowRank:
        """The same change as one pair, whose ``up`` is block-diagonal: the form any LoRA loader reads."""
        up = self.up.new_zeros(self.rows, self.parts * self.rank)
        up[: self.up.shape[0]] = torch.block_diag(*self.up.chunk(self.parts))
        return LowRank(self.down, up, self.alpha * self.parts)

    @classmethod
    def from_block(cls, pair: LowRank, parts: int) -> FusedLowRank | None:
        """The inverse of ``block``; None for a pair that is not of this form."""
        width, rank = pair.down.shape[1], pair.rank // parts
        if rank * parts != pair.rank or pair.up.shape[0] < parts * width:
            return None
        ups = [pair.up[i * width : (i + 1) * width, i * rank : (i + 1) * rank] for i in range(parts)]
        fused = cls(pair.down, torch.cat(ups), pair.alpha / parts, pair.up.shape[0])
        return fused if torch.equal(fused.block.up, pair.up) else None


@dataclass(eq=False)
class Difference:
    """The difference of a layer: ``weight`` [out, in] and ``bias`` [out], at least one of them."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight is None and self.bias is None:
            raise ExpertFileError("a difference needs a weight, a bias, or both")
        if self.bias is not None and self.bias.ndim != 1:
            raise ExpertFileError(
                f"the difference of a bias must have one dimension, got {list(self.bias.shape)}"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return _shapes(weight=self.weight, bias=self.bias)


@dataclass(eq=False)
class Replacement:
    """The exact new ``weight`` [out, in] of a layer, and its ``bias`` [out] if it has one.

    Files by others hold these; DCM itself writes differences, which leave room for other LoRAs on the layer.
    """

    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            raise ExpertFileError("a replacement needs a weight [out, in], and a bias [out] or none")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return _shapes(weight=self.weight, bias=self.bias)


Layer = LowRank | FusedLowRank | Difference | Replacement


@dataclass(eq=False)
class Expert:
    """Metadata, changed layers by ComfyUI module name, and differences of bare Parameters by full name."""

    metadata: ExpertMetadata
    layers: dict[str, Layer]
    parameters: dict[str, Tensor] = field(default_factory=dict)


def check_format(version: str) -> None:
    """Accept any minor version of this major one. Raises ExpertFileError for a newer major or no version."""
    match = re.fullmatch(r"([0-9]{1,9})\.[0-9]{1,9}", version)
    if match is None:
        raise ExpertFileError(f"dcm.format is {version!r}, but must look like {FORMAT!r}")
    if int(match[1]) > int(FORMAT.split(".")[0]):
        raise ExpertFileError(
            f"the expert file has format {version}, this version of DCM reads {FORMAT}: update DCM to use it"
        )


def _shapes(**tensors: Tensor | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}


def _required(header: Mapping[str, str], key: str) -> str:
    if not header.get(key):
        raise ExpertFileError(f"the metadata has no {key}: export the expert again")
    return header[key]


def _number(header: Mapping[str, str], key: str, kind: type) -> float | int:
    text = _required(header, key)
    try:
        return kind(text)
    except ValueError:
        raise ExpertFileError(f"{key} is {text!r}, which is no number") from None
