"""What is known of the speed LoRAs on the MODELs of a run, whose noise levels it is to take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ...dcm_core.errors import shortened
from ...dcm_core.expert.speed_lora_file import speed_lora_of
from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.schedule.speed_loras import SpeedLora, recognise
from ..backbone.host import patched_weights
from ..backbone.lora_files import RunningNode, lora_metadata_of
from ..backbone.model import family_of


@dataclass(frozen=True)
class Speed:
    """``high`` and ``low``: the speed LoRA of each MODEL, where one is known; a run of one MODEL has the first alone.

    ``doubts``: what is wrong with them, a sentence each. ``unknown``: what people call LoRAs that nothing is known of.
    """

    high: SpeedLora | None = None
    low: SpeedLora | None = None
    doubts: tuple[str, ...] = ()
    unknown: str = ""

    @property
    def lora(self) -> SpeedLora | None:
        """The one whose noise levels the run takes."""
        return self.high or self.low

    @property
    def remark(self) -> str:
        """What an info line says of them beside the noise levels, or nothing."""
        if self.lora:
            return f" ({self.lora.title} {self.lora.why})"
        if not self.unknown:
            return ""
        return (
            f"; no noise levels are known of {self.unknown}: if that is a speed LoRA, write them into it "
            "(docs/speed_loras.md) or choose a preset of DCM Sigmas"
        )


def speed_of(model: ModelPatcher, low_noise_model: ModelPatcher | None, node: RunningNode) -> Speed:
    """Of the MODELs at the inputs ``model`` and ``low_noise_model`` of a node."""
    high = _of_one(model, node.lora_files("model"))
    if low_noise_model is None:
        return high
    low = _of_one(low_noise_model, node.lora_files("low_noise_model"))
    unknown = high.unknown or low.unknown
    return Speed(high.high, low.high, (*high.doubts, *low.doubts, *_of_both(high.high, low.high)), unknown)


def _of_one(model: ModelPatcher, files: list[Path]) -> Speed:
    known, doubts = [], []
    for find in (lambda: recognise(lora_metadata_of(model)), *(_reader(file) for file in files)):
        try:
            known.append(find())
        except (ValueError, OSError) as error:
            doubts.append(f"{error} Its noise levels are not taken.")
    fitting = [lora for lora in known if lora is not None]
    family = family_of(model)
    for lora in fitting:
        meant = lora.passport.family
        if meant not in ("", family.name):
            title = FAMILIES[meant].title if meant in FAMILIES else meant
            doubts.append(f"{lora.title} {lora.why} is for {title}, and this MODEL is {family.name}: take it off.")
    fitting = [lora for lora in fitting if lora.passport.family in ("", family.name)]
    others = [lora for lora in fitting if lora.passport.sigmas != fitting[0].passport.sigmas]
    if others:
        doubts.append(
            f"{fitting[0].title} and {others[0].title} are two speed LoRAs on one MODEL, for different noise levels: "
            "take one off, or connect DCM Sigmas with the preset of one."
        )
    if fitting or doubts:
        return Speed(None if others else fitting[0] if fitting else None, doubts=tuple(doubts))
    names = shortened([file.name for file in files], 2)
    return Speed(unknown=names or ("the LoRA on this MODEL" if patched_weights(model) else ""))


def _reader(file: Path):
    return lambda: speed_lora_of(file)


def _of_both(high: SpeedLora | None, low: SpeedLora | None) -> Iterator[str]:
    for lora, wrong, place in ((high, "low", "model"), (low, "high", "low_noise_model")):
        if lora and lora.passport.expert == wrong:
            yield (
                f"the {lora.title} LoRA for the {wrong}-noise model is on the MODEL at {place}: swap the two LoRAs, or "
                "the two MODELs."
            )
            return
    if high and low and high.passport.sigmas != low.passport.sigmas:
        yield (
            f"the LoRAs of the two MODELs, {high.title} and {low.title}, are for different noise levels; those of the "
            "high-noise one are used. Take two files that belong together."
        )
