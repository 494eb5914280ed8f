"""What an expert says about itself: which backbone it is for, how it was made and how to sample it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from ..errors import ExpertFileError
from ..families.presets import FAMILIES
from ..schedule.experts import EXPERTS, ExpertSchedule
from ..schedule.header import read_schedule, write_schedule
from ..schedule.passport import Passport, read_passport

FORMAT = "1.2"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class ExpertMetadata:
    """What an expert file says about itself.

    ``guidance`` is the CFG scale that the weights carry, that of their distillation targets: sample them with
    cfg 1. ``embedded_guidance`` is what a network that is told a guidance was told while it was trained; files of
    format 1.0 had only ``guidance``, which meant this one for such a family. ``trained_steps`` is the number of steps
    whose noise levels the expert was trained for; one without holds for any. ``base_fingerprint`` is the backbone
    the expert is laid over; ``fingerprint`` the backbone after a semantic expert, which a detail expert's base
    is compared with. ``complete`` promises every tensor the family's key map lists for this kind of expert.
    ``pair`` tells an expert of a pair of whole models: a semantic one lies over the high-noise model, a detail one over
    the low-noise model with no semantic expert below it.
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
    embedded_guidance: float | None = None
    trained_steps: int | None = None
    pair: bool = False

    def __post_init__(self) -> None:
        check_format(self.format)
        if not self.title:
            object.__setattr__(self, "title", f"{self.backbone} DCM {self.expert} expert")
        if self.expert not in EXPERTS:
            raise ExpertFileError(f"dcm.expert is {self.expert!r}, but must be 'semantic' or 'detail'")
        if not self.family:
            raise ExpertFileError("dcm.family is empty: name the backbone family, for example 'wan'")
        family = FAMILIES.get(self.family)
        if self.embedded_guidance is None and family and family.embedded_guidance:
            object.__setattr__(self, "embedded_guidance", self.guidance)
        for name, scale in (("guidance", self.guidance), ("embedded_guidance", self.embedded_guidance)):
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ExpertFileError(f"dcm.{name} must be a finite scale of 0 or more, got {scale}")
        if self.rank is not None and self.rank < 1:
            raise ExpertFileError(f"dcm.rank must be 1 or more, got {self.rank}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise ExpertFileError(f"dcm.alpha must be finite, got {self.alpha}")
        try:
            _ = self.trained_sigmas
        except ValueError as error:
            raise ExpertFileError(f"dcm.trained_steps does not suit the schedule: {error}") from None
        try:
            _ = self.passport
        except ValueError as error:
            raise ExpertFileError(f"its dcm_schedule.* fields are not usable: {error}") from None

    @property
    def prediction(self) -> str:
        """What the network predicts: ``flow`` (velocity of flow matching) or ``v_prediction``."""
        return self.schedule.grid.prediction

    @cached_property
    def trained_sigmas(self) -> Tensor | None:
        """The noise levels [N + 1] of the run that the expert was trained for; none of one that holds for any."""
        return None if self.trained_steps is None else self.schedule.sigmas(self.trained_steps)

    @cached_property
    def passport(self) -> Passport | None:
        """What was written into its file as into a speed LoRA's; none in most."""
        return read_passport(self.extra)

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
        header |= write_schedule(self.schedule, self.trained_steps)
        header |= {
            "dcm.format": self.format,
            "dcm.expert": self.expert,
            "dcm.family": self.family,
            "dcm.backbone": self.backbone,
            "dcm.guidance": repr(float(self.guidance)),
            "dcm.complete": "true" if self.complete else "false",
        }
        told = self.embedded_guidance
        optional = {
            "dcm.embedded_guidance": None if told is None else repr(float(told)),
            "dcm.rank": self.rank,
            "dcm.alpha": self.alpha,
            "dcm.trained_steps": self.trained_steps,
            "dcm.pair": "true" if self.pair else None,
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
            schedule = read_schedule(header)
        except (ValueError, KeyError, TypeError) as error:
            raise ExpertFileError(f"the schedule in the file's metadata is not usable: {error}") from error
        metadata = cls(
            expert=_required(header, "dcm.expert"),
            family=_required(header, "dcm.family"),
            backbone=_required(header, "dcm.backbone"),
            schedule=schedule,
            guidance=_number(header, "dcm.guidance", float),
            embedded_guidance=_optional_number(header, "dcm.embedded_guidance", float),
            trained_steps=_optional_number(header, "dcm.trained_steps", int),
            rank=_optional_number(header, "dcm.rank", int),
            alpha=_optional_number(header, "dcm.alpha", float),
            base_fingerprint=header.get("dcm.base_fingerprint", ""),
            fingerprint=header.get("dcm.fingerprint", ""),
            trained_with=header.get("dcm.trained_with", ""),
            title=header.get("modelspec.title", ""),
            complete=_truth(header, "dcm.complete"),
            pair=_truth(header, "dcm.pair"),
            format=header["dcm.format"],
        )
        known = metadata.to_header()
        extra = {key: value for key, value in header.items() if key not in known}
        return replace(metadata, extra=extra)


def check_format(version: str) -> None:
    """Accept any minor version of this major one. Raises ExpertFileError for a newer major or no version."""
    match = re.fullmatch(r"([0-9]{1,9})\.[0-9]{1,9}", version)
    if match is None:
        raise ExpertFileError(f"dcm.format is {version!r}, but must look like {FORMAT!r}")
    if int(match[1]) > int(FORMAT.split(".")[0]):
        raise ExpertFileError(
            f"the expert file has format {version}, this version of DCM reads {FORMAT}: update DCM to use it"
        )


def _required(header: Mapping[str, str], key: str) -> str:
    if not header.get(key):
        raise ExpertFileError(f"the metadata has no {key}: export the expert again")
    return header[key]


def _truth(header: Mapping[str, str], key: str) -> bool:
    text = header.get(key, "false")
    if text not in ("true", "false"):
        raise ExpertFileError(f"{key} is {text!r}, but must be 'true' or 'false'")
    return text == "true"


def _number(header: Mapping[str, str], key: str, kind: Callable[[str], Number]) -> Number:
    text = _required(header, key)
    try:
        return kind(text)
    except ValueError:
        raise ExpertFileError(f"{key} is {text!r}, which is no number") from None


def _optional_number(header: Mapping[str, str], key: str, kind: Callable[[str], Number]) -> Number | None:
    return _number(header, key, kind) if key in header else None
