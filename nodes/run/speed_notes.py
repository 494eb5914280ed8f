"""What is worth saying of a run with speed LoRAs: one warning for all that contradicts theirs, with its remedy."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...dcm_core.schedule.experts import steps_text
from ...dcm_core.schedule.passport import Passport, levels, run_alike
from ...dcm_core.schedule.sigmas import is_part_of
from ...dcm_core.schedule.speed_loras import SpeedLora
from .plan import Run

_SAME = {"ddim": "euler"}  # in the host


def of_speed_loras(run: Run, sigmas: Tensor, given: bool, sampler_name: str | None, is_stock: bool) -> list[str]:
    """The warnings about the speed LoRAs of a run down ``sigmas`` [N + 1]; the rest as in ``warnings_for``."""
    warnings, of_others = [*run.speed.mistakes, *(() if given else run.speed.doubts)], run.speed.lora
    if run.has_experts and of_others and not are_levels_of(of_others.passport, sigmas):
        warnings.append(
            f"{of_others.title} ({of_others.why}) is a speed LoRA for noise levels of its own, and this run takes "
            "those of its experts: take the LoRA off."
        )
    lora = run.speed_lora
    if lora is None:
        return warnings
    wrong = [
        *(() if run.has_experts else _of_levels(lora.passport, sigmas, given, is_stock)),
        *_of_sampler(lora.passport, sampler_name),
        *_of_cfg(run),
        *_of_strength(run),
    ]
    if wrong:
        made_for, remedies = (_listed(each) for each in zip(*wrong, strict=True))
        warnings.append(f"{lora.title} ({lora.why}) is made for {made_for}: {remedies}.")
    return [*warnings, *(() if run.has_experts else _of_low_noise_side(run, sigmas))]


def are_of_speed_lora(run: Run, sigmas: Tensor) -> bool:
    """Are these the noise levels of the run's speed LoRA?"""
    return run.speed_lora is not None and are_levels_of(run.speed_lora.passport, sigmas)


def are_levels_of(passport: Passport, sigmas: Tensor) -> bool:
    """Does a run down ``sigmas`` [N + 1], or a part of one, follow one of the passport's lists?"""
    return any(is_part_of(levels(passport, steps), sigmas) for steps in passport.sigmas)


def _of_levels(passport: Passport, sigmas: Tensor, given: bool, is_stock: bool) -> Iterator[tuple[str, str]]:
    if are_levels_of(passport, sigmas):
        return
    steps = len(sigmas) - 1
    meant = levels(passport, steps if steps in passport.sigmas else 0)[:-1].tolist()
    if not given:
        remedy = "set semantic_steps to 0 and denoise to 1 (start_at_step changes a video)"
    elif is_stock:
        remedy = f"connect DCM Sigmas with {steps_text(len(meant))} for sigmas"
    else:
        remedy = "leave sigmas open"
    yield f"the noise levels {' '.join(f'{sigma:.3f}' for sigma in meant)}", remedy


def _of_low_noise_side(run: Run, sigmas: Tensor) -> Iterator[str]:
    """Of a LoRA that has fewer lists than the one whose noise levels the run takes."""
    high, low = run.sides
    if high and low and run_alike(high.passport, low.passport):
        if are_levels_of(high.passport, sigmas) and not are_levels_of(low.passport, sigmas):
            usual = len(levels(low.passport)) - 1
            yield f"{low.title} ({low.why}) has no noise levels for {len(sigmas) - 1} steps: set steps to {usual}."


def _of_sampler(passport: Passport, name: str | None) -> Iterator[tuple[str, str]]:
    if name is not None and passport.samplers and _SAME.get(name, name) not in passport.samplers:
        yield f"the sampler {passport.samplers[0]}", f"set sampler_name to {passport.samplers[0]}"


def _of_cfg(run: Run) -> Iterator[tuple[str, str]]:
    for lora, cfg, name in _cfgs(run):
        if lora and lora.passport.cfg not in (None, cfg):
            yield f"a cfg of {lora.passport.cfg:g}", f"set {name} to {lora.passport.cfg:g}"
            return


def _cfgs(run: Run) -> list[tuple[SpeedLora | None, float, str]]:
    """The cfg that the LoRA of each side meets, and the input that sets it."""
    high, low = run.sides
    return [(high, run.cfg, "cfg"), (low, run.detail_cfg, "cfg" if run.detail_cfg == run.cfg else "detail_cfg")]


def _of_strength(run: Run) -> Iterator[tuple[str, str]]:
    for lora, place in zip(run.sides, ("model", "low_noise_model"), strict=True):
        if lora and lora.is_misused:
            which = f"the one at {place}" if run.is_pair else "it"
            yield f"a strength of {lora.passport.strength:g}", f"load {which} with that, not with {lora.strength:g}"
            return


def _listed(parts: tuple[str, ...]) -> str:
    *before, last = parts
    return f"{', '.join(before)} and {last}" if before else last
