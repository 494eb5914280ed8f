"""The schedule passport: what a speed LoRA says about how it is sampled, as a file's header and the table have it.

A distilled model knows its own few noise levels and no others; on those of a generic scheduler it burns or blurs. The
keys of a header are one page, ``docs/speed_loras.md``, so that other trainers can write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .grid import real_number, whole_number
from .header import read_field, read_lists, write_lists
from .sigmas import check_sigmas

KEYS = "dcm_schedule."  # what all keys of a passport begin with
_FORMAT = "1"
_LIST = f"{KEYS}sigmas."
SIDES = ("high", "low")
_LARGEST_STRENGTH = 10.0


@dataclass(frozen=True)
class Passport:
    """How a speed LoRA is sampled. What nobody has said of it is left open, as None or as nothing.

    * ``sigmas``: its noise levels (flow matching, 0..1) by number of steps, without the final 0.
    * ``source``: the address that says so; ``family``: the backbone family that it is for.
    * ``usual_steps``: how many steps it is run with where nobody says; without, the first list's.
    * ``shift``: the one that its levels were made by, for schedulers of other programs.
    * ``samplers``: by ComfyUI's names, the first one before the others; ``cfg``; ``strength`` of the LoRA.
    * ``boundary``: the noise level from which on the high-noise model of a pair acts; ``expert``: "high" or "low", the
      one of the pair that it is for.
    * ``title``: what people call it.

    Raises ValueError for one that no run could follow, or that contradicts itself.
    """

    sigmas: Mapping[int, tuple[float, ...]] = field(hash=False)
    source: str = ""
    family: str = ""
    usual_steps: int | None = None
    shift: float | None = None
    samplers: tuple[str, ...] = ()
    cfg: float | None = None
    strength: float | None = None
    boundary: float | None = None
    expert: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        if not self.sigmas:
            raise ValueError("the passport has no list of sigmas: give one for at least one number of steps.")
        for steps, values in self.sigmas.items():
            whole_number("number of steps", steps)
            if len(values) != steps:
                raise ValueError(
                    f"the passport contradicts itself: its list for {steps} steps has {len(values)} values. Give one "
                    "for each step, without the final 0."
                )
            check_sigmas((*values, 0.0))
        if self.usual_steps is not None and self.usual_steps not in self.sigmas:
            raise ValueError(
                f"the passport contradicts itself: its usual number of steps is {self.usual_steps}, but it has lists "
                f"for {_either(self.sigmas)} only."
            )
        for name, lowest, highest in (("shift", 0.01, 100.0), ("cfg", 0.0, 100.0), ("boundary", 0.0, 1.0)):
            value = getattr(self, name)
            if value is not None and not lowest <= real_number(name, value) <= highest:
                raise ValueError(f"the passport's {name} is {value:g}: use a number from {lowest:g} to {highest:g}.")
        if self.strength is not None and not 0 < abs(real_number("strength", self.strength)) <= _LARGEST_STRENGTH:
            raise ValueError(f"the passport's strength is {self.strength:g}: use up to {_LARGEST_STRENGTH:g}, not 0.")
        if self.expert and self.expert not in SIDES:
            raise ValueError(f'the passport\'s expert is {self.expert!r}: it is "high" or "low", or left out.')
        self._check_boundary()

    @property
    def settings(self) -> str:
        """All but the noise levels, in words: ``sampler lcm or euler, shift 5, cfg 1``; nothing where all is open."""
        numbers = {name: getattr(self, name) for name in ("shift", "cfg", "strength", "boundary")}
        said = [f"sampler {' or '.join(self.samplers)}"] if self.samplers else []
        said += [f"{name} {number:g}" for name, number in numbers.items() if number is not None]
        return ", ".join([*said, f"for the {self.expert}-noise model of a pair"] if self.expert else said)

    def _check_boundary(self) -> None:
        if self.boundary is None:
            return
        for steps, values in self.sigmas.items():
            idle = "high" if values[0] < self.boundary else "low" if values[-1] >= self.boundary else ""
            if idle and steps > 1:
                raise ValueError(
                    f"the passport contradicts itself: its boundary is {self.boundary:g}, which leaves the "
                    f"{idle}-noise model none of its {steps} steps."
                )


def levels(passport: Passport, steps: int = 0) -> Tensor:
    """The noise levels of a run: float32 [steps + 1], falling, ends with 0. 0 ``steps`` are the usual number.

    Raises ValueError naming the numbers of steps that there are, for one without a list.
    """
    steps = steps or passport.usual_steps or next(iter(passport.sigmas))
    if steps not in passport.sigmas:
        raise ValueError(
            f"{passport.title or 'this speed LoRA'} has noise levels for {_either(passport.sigmas)} steps, not for "
            f"{steps}: change steps, or give noise levels of your own."
        )
    return torch.tensor([*passport.sigmas[steps], 0.0], dtype=torch.float32)


def run_alike(one: Passport, other: Passport) -> bool:
    """Are both usually run on the same noise levels? Those that were rounded to be read are the same."""
    first, second = levels(one), levels(other)
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-6)


def read_passport(header: Mapping[str, str]) -> Passport | None:
    """The passport of a file's header; None for a header without one.

    Raises ValueError naming the field if one is unreadable, or as :class:`Passport`.
    """
    if not any(key.startswith(KEYS) for key in header):
        return None
    version = header.get(f"{KEYS}format", _FORMAT)
    if version.split(".")[0] != _FORMAT:
        raise ValueError(f"{KEYS}format is {version[:20]!r}, this version of DCM reads {_FORMAT}: update DCM.")

    def optional(name: str, kind: Any) -> Any:
        return read_field(header, KEYS + name, kind) if KEYS + name in header else None

    samplers = header.get(f"{KEYS}samplers", "").split(",")
    return Passport(
        read_lists(header, _LIST),
        usual_steps=optional("steps", int),
        shift=optional("shift", float),
        samplers=tuple(name.strip() for name in samplers if name.strip()),
        cfg=optional("cfg", float),
        strength=optional("strength", float),
        boundary=optional("boundary", float),
        **{name: header.get(KEYS + name, "") for name in ("source", "family", "expert", "title")},
    )


def write_passport(passport: Passport) -> dict[str, str]:
    """Header fields of a passport: what is open is left out."""
    usual = passport.usual_steps or next(iter(passport.sigmas))
    numbers = {name: getattr(passport, name) for name in ("shift", "cfg", "strength", "boundary")}
    texts = {name: getattr(passport, name) for name in ("source", "family", "expert", "title")}
    fields = {
        "format": _FORMAT,
        "steps": str(usual),
        "samplers": ",".join(passport.samplers),
        **{name: "" if number is None else repr(float(number)) for name, number in numbers.items()},
        **texts,
    }
    return {KEYS + name: text for name, text in fields.items() if text} | write_lists(passport.sigmas, _LIST)


def _either(numbers: Mapping[int, Any]) -> str:
    return " or ".join(map(str, sorted(numbers)))
