"""What is known of the speed LoRAs on the MODELs of a run, whose noise levels it is to take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ...dcm_core.errors import ExpertFileError, shortened
from ...dcm_core.expert.other_files import speed_lora_of
from ...dcm_core.families.family import Family
from ...dcm_core.families.presets import FAMILIES
from ...dcm_core.schedule.experts import ExpertKind, PartNames
from ...dcm_core.schedule.passport import run_alike
from ...dcm_core.schedule.speed_loras import SpeedLora, recognise
from ..backbone.host import patched_weights
from ..backbone.lora_files import LoadedLora, RunningNode, lora_metadata_of
from ..backbone.model import family_of
from ..experts.apply import applied_to
from ..experts.lora import loras_on
from ..ui.folders import state_of

LORA_NODE = "DCMLora"  # whose LoRAs a MODEL knows itself


class AskedFiles:
    """The files that runs have asked for noise levels: what was made of them is old when one says something else.

    An answer is the speed LoRA that a file is, if it is one, or why it cannot be told.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, SpeedLora | str | None]] = {}
        self._changes = 0

    def ask(self, file: Path) -> SpeedLora | str | None:
        known = _state(file), _answer(file)
        if self._known.get(file, known)[1] != known[1]:
            self._changes += 1
        self._known[file] = known
        return known[1]

    def changes(self) -> int:
        """A number that is another one after any of them said something else."""
        for file, (state, _) in [*self._known.items()]:
            if _state(file) != state:
                self.ask(file)
        return self._changes


def _state(file: Path) -> str:
    try:
        return state_of(file)
    except OSError:  # it is gone, or its disk
        return ""


def _answer(file: Path) -> SpeedLora | str | None:
    try:
        return speed_lora_of(file)
    except (ExpertFileError, OSError) as error:
        return str(error)


asked_files = AskedFiles()


@dataclass(frozen=True)
class Speed:
    """``high`` and ``low``: the speed LoRA of each side of a run, where one is known and acts there.

    ``doubts``: why the noise levels of one are not used, or whose are, a sentence each; ``mistakes``: what is wrong
    whatever noise levels are used. ``unknown``: what people call LoRAs that nothing is known of. ``experts``: what the
    experts' files say as a speed LoRA's does, if anything.
    """

    high: SpeedLora | None = None
    low: SpeedLora | None = None
    doubts: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    unknown: str = ""
    experts: SpeedLora | None = None

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
    """Of the MODELs at the inputs ``model`` and ``low_noise_model`` of a node; of one alone, for both sides."""
    high = _of_side(model, "semantic", node.loras("model", but=LORA_NODE))
    if low_noise_model is None:
        low = _of_side(model, "detail", node.loras("model", but=LORA_NODE))
    else:
        low = _of_side(low_noise_model, "detail", node.loras("low_noise_model", but=LORA_NODE))
    loras, is_pair = (high.lora, low.lora), low_noise_model is not None
    return Speed(
        *loras,
        tuple(dict.fromkeys([*high.doubts, *low.doubts, *_unlike(*loras, is_pair)])),
        tuple(dict.fromkeys([*high.mistakes, *low.mistakes, *(_swapped(*loras) if is_pair else ())])),
        high.unknown or low.unknown,
        _of_experts(model) or (_of_experts(low_noise_model) if low_noise_model else None),
    )


def speed_text(file: Path) -> tuple[str, list[str]]:
    """What the line of a loader goes on with for a LoRA file, and what is wrong with what the file says."""
    try:
        lora = speed_lora_of(file)
    except ExpertFileError as error:
        return "", [_unused(error)]
    return f"; {lora.title} {lora.why}, a speed LoRA with noise levels of its own" if lora else "", []


def _of_experts(model: ModelPatcher) -> SpeedLora | None:
    applied = applied_to(model)
    if applied is None or applied.passport is None:
        return None
    title = applied.passport.title or "the pair of experts"
    return SpeedLora(replace(applied.passport, title=title), "by its own metadata")


def _of_side(model: ModelPatcher, expert: ExpertKind, found: list[LoadedLora]) -> Speed:
    """What is known of the LoRAs on a MODEL, those ``found`` in the graph and its own, in the steps of an expert."""
    own = [LoadedLora(lora.file, lora.strengths[expert]) for lora in loras_on(model) if lora.strengths[expert]]
    files = _strengths([*reversed(own), *found])
    loras, doubts = _recognised(model, files)
    if doubts and not loras:
        return Speed(doubts=tuple(doubts))
    if not loras:
        other = "what is patched onto this MODEL" if patched_weights(model) else ""
        return Speed(unknown=shortened([file.name for file in files], 2) if files else other)
    family = family_of(model)
    fitting = [lora for lora in loras if lora.passport.family in ("", family.name)]
    mistakes = tuple(_foreign(lora, family) for lora in loras if lora not in fitting)
    if fitting and family.schedule.grid.prediction != "flow":
        doubts.append(_unused(f"{fitting[0].title} is for flow matching, and {family.title} takes other noise levels."))
        fitting = []
    others = [lora for lora in fitting if not run_alike(lora.passport, fitting[0].passport)]
    if others:
        doubts.append(
            f"{fitting[0].title} and {others[0].title} are two speed LoRAs on one MODEL, for different noise levels: "
            "take one off, or connect DCM Sigmas with the preset of one."
        )
    elif fitting:
        return Speed(fitting[0], doubts=tuple(doubts), mistakes=mistakes)
    return Speed(doubts=tuple(doubts), mistakes=mistakes)


def _strengths(loaded: list[LoadedLora]) -> dict[Path, float | None]:
    """The strength that each file has in all: several loaders of one file add up."""
    found: dict[Path, float | None] = {}
    for each in loaded:
        before = found.get(each.path, 0.0)
        found[each.path] = None if before is None or each.strength is None else before + each.strength
    return found


def _recognised(model: ModelPatcher, files: dict[Path, float | None]) -> tuple[list[SpeedLora], list[str]]:
    """The speed LoRAs among these files, else the one that the MODEL's metadata tells, and why some are not used."""
    found, doubts = [], []
    for file, strength in files.items():
        answer = asked_files.ask(file)
        if isinstance(answer, SpeedLora):
            found.append(replace(answer, strength=strength))
        elif answer:
            doubts.append(_unused(answer))
    if not found and not doubts:  # else it is most likely one of these
        try:
            if lora := recognise(lora_metadata_of(model)):
                found.append(lora)
        except ValueError as error:
            doubts.append(_unused(f"of the LoRA on this MODEL, {error}"))
    return found, doubts


def _unused(why: Exception | str) -> str:
    return f"{why} Its noise levels are not used."


def _foreign(lora: SpeedLora, family: Family) -> str:
    meant = FAMILIES[lora.passport.family].title if lora.passport.family in FAMILIES else lora.passport.family
    return f"{lora.title} ({lora.why}) is for {meant}, and this MODEL is {family.name}: take it off."


def _swapped(high: SpeedLora | None, low: SpeedLora | None) -> Iterator[str]:
    for lora, wrong, place in ((high, "low", "model"), (low, "high", "low_noise_model")):
        if lora and lora.passport.expert == wrong:
            yield f"at {place} is the {lora.title} LoRA for the {wrong}-noise model: swap the two LoRAs, or the MODELs."
            return


def _unlike(high: SpeedLora | None, low: SpeedLora | None, is_pair: bool) -> Iterator[str]:
    if high and low and not run_alike(high.passport, low.passport):
        of = "two MODELs" if is_pair else "semantic and the detail steps"
        yield (
            f"the LoRAs of the {of}, {high.title} and {low.title}, are for different noise levels; those of the "
            "high-noise one are used. Take two files that belong together."
        )
