"""What is known of the speed LoRAs on the MODELs of a run, whose noise levels it is to take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ...dcm_core.errors import ExpertFileError, shortened
from ...dcm_core.expert.speed_lora_file import speed_lora_of
from ...dcm_core.families.family import Family
from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.schedule.experts import PartNames
from ...dcm_core.schedule.speed_loras import SpeedLora, recognise
from ..backbone.host import patched_weights
from ..backbone.lora_files import RunningNode, lora_metadata_of
from ..backbone.model import family_of


@dataclass(frozen=True)
class Speed:
    """``high`` and ``low``: the speed LoRA of each MODEL, where one is known; a run of one MODEL has the first alone.

    ``doubts``: why the noise levels of one are not used, or whose are, a sentence each; ``mistakes``: what is wrong
    whatever noise levels are used. ``unknown``: what people call LoRAs that nothing is known of.
    """

    high: SpeedLora | None = None
    low: SpeedLora | None = None
    doubts: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    unknown: str = ""

    @property
    def lora(self) -> SpeedLora | None:
        """The one whose noise levels the run takes."""
        return self.high or self.low

    def remark(self, names: PartNames | str) -> str:
        """What an info line goes on with after ``names`` and their noise levels, or nothing."""
        if self.lora:
            title = "" if names == self.lora.title else f"{self.lora.title} "
            return f" ({title}{self.lora.why})"
        if not self.unknown:
            return ""
        return (
            f"; no noise levels are known of {self.unknown}: into a speed LoRA, write them by python -m "
            "dcm_core.convert stamp (docs/speed_loras.md), or choose a preset of DCM Sigmas"
        )


def speed_of(model: ModelPatcher, low_noise_model: ModelPatcher | None, node: RunningNode) -> Speed:
    """Of the MODELs at the inputs ``model`` and ``low_noise_model`` of a node."""
    high = _of_one(model, node.lora_files("model"))
    if low_noise_model is None:
        return high
    low = _of_one(low_noise_model, node.lora_files("low_noise_model"))
    return Speed(
        high.high,
        low.high,
        (*high.doubts, *low.doubts, *_unlike(high.high, low.high)),
        (*high.mistakes, *low.mistakes, *_swapped(high.high, low.high)),
        high.unknown or low.unknown,
    )


def _of_one(model: ModelPatcher, files: list[Path]) -> Speed:
    loras, doubts = _recognised(model, files)
    family = family_of(model)
    fitting = [lora for lora in loras if lora.passport.family in ("", family.name)]
    mistakes = tuple(_foreign(lora, family) for lora in loras if lora not in fitting)
    others = [lora for lora in fitting if lora.passport.sigmas != fitting[0].passport.sigmas]
    if others:
        doubts.append(
            f"{fitting[0].title} and {others[0].title} are two speed LoRAs on one MODEL, for different noise levels: "
            "take one off, or connect DCM Sigmas with the preset of one."
        )
    elif fitting:
        return Speed(fitting[0], doubts=tuple(doubts), mistakes=mistakes)
    names = shortened([file.name for file in files], 2) or (
        "what is patched onto this MODEL" if patched_weights(model) else ""
    )
    return Speed(doubts=tuple(doubts), mistakes=mistakes, unknown="" if loras or doubts else names)


def _recognised(model: ModelPatcher, files: list[Path]) -> tuple[list[SpeedLora], list[str]]:
    """The speed LoRAs that the graph tells of and the one that the MODEL's metadata does, and why some are not used."""
    found, doubts = [], []
    for file in files:
        try:
            found.append(speed_lora_of(file))
        except (ExpertFileError, OSError) as error:
            doubts.append(f"{error} Its noise levels are not used.")
    if not any(found) and not doubts:  # else it is most likely one of these
        try:
            found.append(recognise(lora_metadata_of(model)))
        except ValueError as error:
            doubts.append(f"of the LoRA on this MODEL, {error} Its noise levels are not used.")
    return [lora for lora in found if lora is not None], doubts


def _foreign(lora: SpeedLora, family: Family) -> str:
    meant = FAMILIES[lora.passport.family].title if lora.passport.family in FAMILIES else lora.passport.family
    return f"{lora.title} ({lora.why}) is for {meant}, and this MODEL is {family.name}: take it off."


def _swapped(high: SpeedLora | None, low: SpeedLora | None) -> Iterator[str]:
    for lora, wrong, place in ((high, "low", "model"), (low, "high", "low_noise_model")):
        if lora and lora.passport.expert == wrong:
            yield f"at {place} is the {lora.title} LoRA for the {wrong}-noise model: swap the two LoRAs, or the MODELs."
            return


def _unlike(high: SpeedLora | None, low: SpeedLora | None) -> Iterator[str]:
    if high and low and high.passport.sigmas != low.passport.sigmas:
        yield (
            f"the LoRAs of the two MODELs, {high.title} and {low.title}, are for different noise levels; those of the "
            "high-noise one are used. Take two files that belong together."
        )
