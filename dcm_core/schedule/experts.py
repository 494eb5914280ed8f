"""Which expert acts at which noise level, and the noise levels of an N-step run (DCM, arXiv 2506.03123).

One grid and one boundary ``kappa`` give the training range of each expert, the end point of each consistency
function, the switch while sampling, and the sigmas of a run. No other file computes or stores a boundary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from .grid import NoiseGrid, real_number, whole_number
from .sigmas import check_sigmas
from .steps import plan_steps

ExpertKind = Literal["semantic", "detail"]
EXPERTS: tuple[ExpertKind, ...] = ("semantic", "detail")


class PartNames(NamedTuple):
    """What people read for the two parts of a run, that at high noise first: ``short`` in a line of steps, ``full``
    in sentences and on a plot; and for the noise level between them."""

    short: tuple[str, str]
    full: tuple[str, str]
    boundary: str = "kappa"


USUAL_STEPS = 4  # of a run with experts that were trained for no number of steps
EXPERT_NAMES = PartNames(("SemE", "DetE"), ("semantic expert", "detail expert"))


@dataclass(frozen=True)
class Midpoint:
    """Switch midway between kappa and the next higher grid point ("aligned").

    No rounding of kappa then hands its step to the wrong expert, and the semantic expert lands exactly on kappa, as
    it was trained to. It is the midpoint of timesteps: in flow matching that of sigmas too, and in v-prediction
    ``sigma <= switch_sigma`` says the same as ``timestep <= midpoint``.
    """

    rule: ClassVar[str] = "aligned"


@dataclass(frozen=True)
class Threshold:
    """Switch where released weights were published to, in flow matching: the detail expert acts iff
    ``1000 * sigma < timestep``."""

    timestep: float
    rule: ClassVar[str] = "official"


@dataclass(frozen=True)
class ExpertSchedule:
    """A noise grid and the boundary between the two experts on it.

    All sigmas are in the unit of the grid's backbone, as ComfyUI's samplers take them: 0..1 in flow matching,
    ``sqrt((1 - a) / a)`` in v-prediction (CogVideoX). People read and type CogVideoX's levels as timesteps.

    * ``kappa_index``: the grid point, 0..points-2, where the semantic expert ends and the detail one begins.
    * ``switch``: what decides who acts between kappa and the grid point above it.
    * ``lists``: beside a ``Threshold``, the published noise levels by number of steps, without the final 0.

    Raises ValueError for a boundary that leaves an expert nothing to do.
    """

    grid: NoiseGrid
    kappa_index: int
    switch: Midpoint | Threshold = Midpoint()
    lists: Mapping[int, tuple[float, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        last = self.grid.points - 1
        if not 0 <= whole_number("kappa_index", self.kappa_index) < last:
            at_noise = self.kappa_index == last
            why = f"is {self.spell(self.grid.sigma_max, 0)}, a cut that leaves the semantic expert no step"
            lowest, highest = (self.grid.curve.label(self.grid.sigma(i), 4) for i in (0, last - 1))
            raise ValueError(
                f"kappa_index {self.kappa_index} {why if at_noise else 'is off the grid'}. Choose 0 to {last - 1}, "
                f"which is a {self.grid.curve.unit} from {lowest} to {highest}."
            )
        lists = {
            whole_number("number of steps", steps): tuple(real_number("sigma", value) for value in values)
            for steps, values in self.lists.items()
        }
        object.__setattr__(self, "lists", lists)
        if isinstance(self.switch, Threshold):
            self._check_published(self.switch)
        elif lists:
            raise ValueError("published lists of sigmas need the published switch, a Threshold.")

    def _check_published(self, switch: Threshold) -> None:
        if self.grid.prediction != "flow":
            raise ValueError("a Threshold is for released weights, all of them flow matching: use a Midpoint.")
        timestep = real_number("the switch's timestep", switch.timestep)
        if not 1000 * self.kappa_sigma < timestep <= 1000:
            raise ValueError(
                f"the switch's timestep must lie above kappa ({1000 * self.kappa_sigma:.3f}) and up to 1000, "
                f"got {timestep!r}."
            )
        for steps, values in self.lists.items():
            if len(values) != steps:
                raise ValueError(
                    f"the list of {steps} steps has {len(values)} values: give {steps}, without the final 0."
                )
            check_sigmas((*values, 0.0))

    # --- the boundary ---------------------------------------------------------------------

    @property
    def kappa_sigma(self) -> float:
        """The noise level where the semantic expert ends and the detail expert begins."""
        return self.grid.sigma(self.kappa_index)

    @property
    def switch_sigma(self) -> float:
        """The noise level that tells the experts apart; :meth:`acting` compares with it."""
        if isinstance(self.switch, Threshold):
            return self.switch.timestep / 1000
        return self.grid.curve.between(self.kappa_sigma, self.grid.sigma(self.kappa_index + 1))

    def acting(self, sigma: Tensor | float) -> ExpertKind:
        """The expert that acts at this noise level: a number, or the sigmas [B] of one network call.

        Raises ValueError for a call that holds sigmas of both experts.
        """
        detail = self.is_detail(sigma)
        count = int(detail.sum())  # once: each question waits for the device
        if count == detail.numel():
            return "detail"
        if count:
            sigmas = torch.as_tensor(sigma).flatten().unique().tolist()
            raise ValueError(
                f"One network call holds sigmas of both experts ({', '.join(f'{each:.4f}' for each in sigmas)}; the "
                f"switch is at {self.switch_sigma:.4f}). Use a sampler that gives the whole batch one sigma."
            )
        return "semantic"

    def is_detail(self, sigmas: Tensor | float) -> Tensor:
        """Of each noise level, is it the detail expert's? Bool tensor of the shape and on the device of ``sigmas``.

        For counting the steps of a list; what runs a network asks :meth:`acting`.
        """
        # In float32, as the network is told: bfloat16 would round the switch, and float64 would see the
        # float32 nearest to 0.982 as below 982 / 1000.
        sigmas = torch.as_tensor(sigmas).to(torch.float32)
        if isinstance(self.switch, Threshold):
            return sigmas * 1000 < self.switch.timestep
        return sigmas <= self.switch_sigma

    def training_range(self, expert: ExpertKind) -> range:
        """Grid indices this expert is trained on."""
        boundary = self.kappa_index + 1
        return range(boundary, self.grid.points) if _is_semantic(expert) else range(boundary)

    def with_kappa(self, kappa: int | float) -> ExpertSchedule:
        """The same grid with another boundary: an int is a grid index, a float a timestep / 1000 close to one.

        In flow matching that is the sigma.
        A boundary of one's own is no longer the published one, so a change switches at the midpoint.
        Raises ValueError for one that leaves an expert nothing to do.
        """
        index = self.grid.cut("kappa", kappa) if isinstance(kappa, float) else whole_number("kappa_index", kappa)
        return self if index == self.kappa_index else ExpertSchedule(self.grid, index)

    # --- the sigmas of a run --------------------------------------------------------------

    def sigmas(self, steps: int, semantic_steps: int | None = None, denoise: float = 1.0) -> Tensor:
        """Noise levels of an N-step run: float32 [steps + 1], falling, ends with 0.

        The experts share the steps evenly, the odd one going to the detail expert, or as ``semantic_steps``
        says. Neither gets more than it has grid points; one step alone is the semantic expert's. Each
        expert's steps lie uniformly in grid index, ties nearer to kappa. A published list is
        returned as it is.

        ``denoise`` below 1 starts at the grid point nearest to ``u = denoise``, the noise level at which the
        backbone's own solver has this fraction of its steps left, and spends all ``steps`` below it. The
        semantic expert keeps the pace of a whole run (at least one step if the run starts in its part), the
        detail expert gets the rest. Taking the last part of a longer list, as hosts do with their own
        schedules, would jump: the middle of a DCM list is kappa, far above ``u = 0.5``, and any denoise above
        0.8 would change nothing at 4 steps.

        Raises ValueError for a request that cannot be met, saying what to change.
        """
        whole_number("steps", steps)
        if not 0 < real_number("denoise", denoise) <= 1:
            raise ValueError(f"denoise is {denoise}: use a number above 0, up to 1.")
        first = max(0, round(denoise * self.grid.points) - 1)
        published = self.lists.get(steps) if first == self.grid.points - 1 else None
        if published is not None:
            listed = torch.tensor([*published, 0.0], dtype=torch.float32)
            if semantic_steps in (None, self._shares(listed)[0]):
                return listed
        gate = int(self.is_detail(self.grid.sigmas).sum()) - 1
        semantic, detail = plan_steps(
            steps, semantic_steps, points=self.grid.points, kappa=self.kappa_index, gate=gate, first=first
        )
        return torch.tensor([*(self.grid.sigma(i) for i in semantic + detail), 0.0], dtype=torch.float32)

    def split(self, sigmas: Tensor | Sequence[float]) -> tuple[int, int]:
        """Steps of the semantic and of the detail expert in any list of N + 1 sigmas."""
        return self._shares(self.check(sigmas))

    def _shares(self, sigmas: Tensor) -> tuple[int, int]:
        detail = int(self.is_detail(sigmas[:-1]).sum())
        return len(sigmas) - 1 - detail, detail

    def describe(self, sigmas: Tensor | Sequence[float], names: PartNames | str = EXPERT_NAMES) -> str:
        """One line: ``SemE 2 steps 1.000 0.992 | DetE 2 steps 0.982 0.912``, for CogVideoX in timesteps.

        With one name for ``names``, whose are all steps: ``no experts: 4 steps 1.000 0.992 0.982 0.912``.
        """
        sigmas = self.check(sigmas)
        semantic, _ = counts = self._shares(sigmas)
        starts = self.grid.curve.labels(sigmas[:-1].tolist(), 3)
        if isinstance(names, str):
            return _part(f"{names}:", starts)
        high, low = names.short
        line = f"{_part(high, starts[:semantic])} | {_part(low, starts[semantic:])}"
        if counts == (1, 0) and sigmas[-1] == 0:
            line += f" (one step is the {names.full[0]}'s, 2 or more use both)"
        return line

    def describe_switch(self, trained_steps: int | None = None) -> str:
        """Which expert acts where, in one line: by the switch, and in a run of so many steps or of the usual number."""
        steps = trained_steps or next(iter(self.lists), USUAL_STEPS)  # as it was published, where it was
        switch = f"SemE above {self.spell(self.switch_sigma)}, DetE from there down"
        return f"{switch}; {steps_text(steps)}: {self.describe(self.sigmas(steps))}"

    def check(self, sigmas: Tensor | Sequence[float]) -> Tensor:
        """:func:`~dcm_core.schedule.sigmas.check_sigmas` for this backbone's noise levels."""
        return check_sigmas(sigmas, self.grid.sigma_max)

    def spell(self, sigma: float, digits: int = 4) -> str:
        """A noise level in words: ``sigma 0.9827``, for CogVideoX ``timestep 769``."""
        return f"{self.grid.curve.unit} {self.grid.curve.label(sigma, digits)}"

    @property
    def kappa_text(self) -> str:
        """Kappa as people type it or read it on a plot: ``0.9818``, for CogVideoX the timestep ``759``."""
        return self.grid.curve.label(self.kappa_sigma, 4)


def steps_text(steps: int) -> str:
    """``1 step``, ``4 steps``."""
    return "1 step" if steps == 1 else f"{steps} steps"


_SHOWN = 8  # sigmas of one expert that describe() writes out in full


def _is_semantic(expert: ExpertKind) -> bool:
    if expert not in EXPERTS:
        raise ValueError(f'expert {expert!r} is unknown: choose "semantic" or "detail".')
    return expert == "semantic"


def _part(name: str, starts: list[str]) -> str:
    shown = list(starts)
    if len(shown) > _SHOWN:
        shown[3:-1] = ["..."]
    return " ".join([name, steps_text(len(starts)), *shown])
