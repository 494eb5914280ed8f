"""What a run is going to do: who takes part, which noise levels it runs down, and who takes which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.families.family import Family
from ...dcm_core.schedule.experts import EXPERT_NAMES, USUAL_STEPS, ExpertSchedule, PartNames, steps_text
from ...dcm_core.schedule.pairs import PAIR_NAMES, pair_schedule
from ...dcm_core.schedule.passport import levels
from ...dcm_core.schedule.speed_loras import SpeedLora
from ..backbone.host import latent_format_of, network_of
from ..backbone.lora_files import RunningNode
from ..backbone.model import as_released, family_of, is_semantic
from ..experts.apply import applied_to, schedule_of, trained_sigmas_of, trained_steps_of
from .speed import Speed, speed_of

PLAIN = "no experts"


def names_of(model: ModelPatcher) -> PartNames | str:
    """What the parts of a run of this MODEL alone are called; of one that takes all steps itself, what it holds."""
    applied = applied_to(model)
    if applied:
        return f"{applied.only} expert only" if applied.only else EXPERT_NAMES
    return "semantic expert only" if is_semantic(model) else PLAIN


@dataclass(frozen=True)
class Run:
    """A MODEL with its experts, or two MODELs of which the second takes the low noise; and a cfg for each part.

    ``speed``: what is known of the speed LoRAs on them.
    """

    model: ModelPatcher
    low_noise_model: ModelPatcher | None
    schedule: ExpertSchedule
    cfg: float
    detail_cfg: float
    speed: Speed

    @classmethod
    def of(
        cls,
        model: ModelPatcher,
        low_noise_model: ModelPatcher | None = None,
        *,
        cfg: float = 1.0,
        detail_cfg: float = 0.0,
        boundary: float = 0.0,
        node: RunningNode | None = None,
    ) -> Run:
        """From what the nodes are given: a ``boundary`` of 0 is the usual one, a ``detail_cfg`` of 0 is ``cfg``.

        ``node``: the one that runs, upstream of which the speed LoRAs are looked for.
        Raises ValueError for MODELs that cannot share a run, and for a boundary that has no meaning here.
        """
        speed = speed_of(model, low_noise_model, node or RunningNode())
        if low_noise_model is not None:
            check_pair(model, low_noise_model)
            schedule = pair_schedule_of(model, low_noise_model)
            if not boundary and speed.lora and not has_experts(model, low_noise_model):
                boundary = speed.lora.passport.boundary or 0.0
            schedule = with_boundary(schedule, boundary, family_of(model)) if boundary else schedule
            low_noise_model = as_released(low_noise_model, schedule.grid)
        elif boundary:
            raise ValueError(
                "boundary is for two MODELs, but low_noise_model is not connected. For experts it is the kappa of "
                "DCM Apply Experts."
            )
        else:
            schedule = schedule_of(model)
        model = as_released(model, schedule.grid)
        return cls(model, low_noise_model, schedule, cfg, detail_cfg or cfg, speed)

    @property
    def models(self) -> list[ModelPatcher]:
        """The one, or those at high and at low noise."""
        return [self.model] if self.low_noise_model is None else [self.model, self.low_noise_model]

    @property
    def is_pair(self) -> bool:
        return self.low_noise_model is not None

    @property
    def names(self) -> PartNames | str:
        """What its two parts are called, or who takes all steps."""
        if self.is_pair:
            return PAIR_NAMES
        return self.speed_lora.title if self.speed_lora and not self.has_experts else names_of(self.model)

    @property
    def has_experts(self) -> bool:
        return has_experts(self.model, self.low_noise_model)

    @property
    def speed_lora(self) -> SpeedLora | None:
        """The speed LoRA that the run follows. With experts it is what their files say of all but the noise levels,
        which their own schedule makes."""
        return self.speed.experts if self.has_experts else self.speed.lora

    @property
    def sides(self) -> tuple[SpeedLora | None, SpeedLora | None]:
        """The speed LoRA at high noise, and at low."""
        own = self.speed.experts
        return (own, own) if self.has_experts else (self.speed.high, self.speed.low)

    @property
    def trained_sigmas(self) -> Tensor | None:
        """The noise levels [N + 1] that its experts were trained for; None where they hold for any."""
        return next((sigmas for model in self.models if (sigmas := trained_sigmas_of(model)) is not None), None)

    @property
    def usual_steps(self) -> int:
        """How many steps its experts were trained for, or are usually run with, or 4."""
        if self.trained_sigmas is not None:
            return len(self.trained_sigmas) - 1
        return len(levels(self.speed.experts.passport)) - 1 if self.speed.experts else USUAL_STEPS

    def sigmas(self, given: Tensor | None, steps: int, semantic_steps: int | None, denoise: float) -> Tensor:
        """The noise levels [N + 1] of the whole run: the given ones, or else the speed LoRA's, or the schedule's.

        0 ``steps`` are the usual ones; without ``semantic_steps`` they are shared evenly. Raises ValueError for what no
        sampler can run on, and for a number of steps that the speed LoRA has no levels for.
        """
        if given is not None:
            return self.schedule.check(given)
        if self.speed_lora and not self.has_experts and semantic_steps is None and denoise == 1:
            return levels(self.speed_lora.passport, steps)
        return self.schedule.sigmas(steps or self.usual_steps, semantic_steps, denoise)

    def describe(self, sigmas: Tensor) -> str:
        """Who takes which steps, in one line."""
        line = self.schedule.describe(sigmas, self.names)
        return line if self.has_experts else line + self.speed.remark(self.names)

    def switch_text(self) -> str:
        """Where the switch is, in one line."""
        if self.names == EXPERT_NAMES:
            return self.schedule.describe_switch(trained_steps_of(self.model))
        sigmas = self.sigmas(None, 0, None, 1.0)
        steps, example = len(sigmas) - 1, self.describe(sigmas)
        if not self.is_pair:
            return f"no switch; {example}"
        low = PAIR_NAMES.full[1]
        switch = f"the {low} acts below {self.schedule.spell(self.schedule.switch_sigma)}"
        return f"{switch}; {steps_text(steps)}: {example}"


def has_experts(*models: ModelPatcher | None) -> bool:
    """Does one of these MODELs hold an expert?"""
    return any(names_of(model) != PLAIN for model in models if model is not None)


def check_pair(model: ModelPatcher, low_noise_model: ModelPatcher) -> None:
    """Raises ValueError for two MODELs that do not work on the same latents and images, or are swapped."""
    for each, wrong in ((model, "detail"), (low_noise_model, "semantic")):
        applied = applied_to(each)
        if applied and applied.only == wrong:
            raise ValueError(
                "The two MODELs are swapped: connect the one with the semantic expert to model and the one with the "
                "detail expert to low_noise_model."
            )
    high, low = ((family_of(each), input_channels(each)) for each in (model, low_noise_model))
    if high != low:
        raise ValueError(
            f"model is {high[0].name} with {high[1]} input channels, but low_noise_model is {low[0].name} with "
            f"{low[1]}: they are not of one pair (text to video beside image to video, for example). Load the two "
            "files that belong together."
        )


def input_channels(model: ModelPatcher) -> int:
    """Channels that the network takes: those of its latents, and more if it is also given an image."""
    first: Any = network_of(model).get_submodule(family_of(model).input_layer)
    return first.in_channels


def pair_schedule_of(*models: ModelPatcher) -> ExpertSchedule:
    """The schedule of a pair: as its experts' files say, or its family's by its task, or that of its experts."""
    model = next((model for model in models if applied_to(model)), models[0])
    pair = family_of(model).pair
    if applied_to(model) or pair is None:
        return schedule_of(model)
    takes_image = input_channels(model) > latent_format_of(model).latent_channels
    return pair.schedule(takes_image)


def with_boundary(schedule: ExpertSchedule, boundary: float, family: Family) -> ExpertSchedule:
    """The schedule of a pair with another boundary. Raises ValueError for one that leaves a model nothing to do."""
    pair = family.pair
    lists = pair.lists if pair and pair.grid == schedule.grid else {}
    return pair_schedule(boundary, schedule.grid, lists)
