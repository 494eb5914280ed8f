"""The estimate of a stage in words: memory by part, time, disk, and what to change where it does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..config import PART_NAMES, Config
from ..data.buckets import Size
from ..errors import ConfigError
from ..words import digits, span, work
from .need import Need
from .paths import plan

GIB = 2**30
_LAST = "smaller or shorter clips, or several GPUs (--gpus)"
_USABLE = 0.92  # of a card's memory: some 8% are not for use


@dataclass(frozen=True)
class Estimate:
    """``text``: what a stage needs. ``changes``: what makes it smaller; nothing where it fits, or no card is named."""

    stage: str
    text: str
    changes: tuple[str, ...]


def told(config: Config, options: Any, need: Need, card: float | None, rate: float) -> Estimate:
    """What the selected stage needs. ``card``: its memory in bytes; ``rate``: its TFLOP a second, assumed."""
    stage = config.selected()
    seconds, one = need.flop / 1e12 / rate / need.gpus, need.of_one()
    made = "activations" if one.activations >= one.copies else "copies"
    parts = ("weights", "gathered", "gradients", "optimizer", "averages", made)
    memory = ", ".join(f"{name} {_gib(getattr(one, name))}" for name in parts if getattr(one, name))
    whose = "one GPU" if need.gpus == 1 else f"each of {need.gpus} GPUs"
    pace = f"{rate:g} TFLOP a second" if need.gpus == 1 else f"{need.gpus} times {rate:g} TFLOP a second"
    # The trained weights, their two moments and their averages, in float32; of a file, as it is exported.
    checkpoint = 4 * need.trained + need.optimizer + need.averages
    fits = card is None or one.memory <= _USABLE * card
    changes = () if fits else (*_smaller(config, options, need),) or (_LAST,)
    text = "\n".join(
        [
            f"stage {config.stage}: {stage.method}{_of_pair(config)}, {need.trained / 1e6:.1f} M trained parameters; "
            f"{need.batch} clips an iteration, {need.at_once} at once, of "
            f"{need.clip.size} ({need.clip.tokens} tokens)",
            f"  memory of {whose}, GiB: {_gib(one.memory)} = {memory}",
            f"  an iteration: {work(need.flop)}, {span(seconds)} at {pace} (assumed; "
            f"--rate TFLOP for your card); {stage.iterations} iterations: {span(seconds * stage.iterations)}",
            f"  disk: {config.checkpoints_kept} checkpoints of {_gib(checkpoint)} GiB{_of_cache(config, need)}",
            *_paths(config, options, need, rate),
            *([] if card is None else [_of_card(one, card, fits)]),
        ]
    )
    return Estimate(config.stage, text, changes)


def conclusion(stages: Sequence[Estimate]) -> str:
    """Whether the stages fit the card, and what makes those smaller that do not: once for all of them."""
    large = [each.stage for each in stages if each.changes]
    if not large:
        usual = {1: f"the {stages[0].stage} stage fits", 2: "both stages fit"}
        return usual.get(len(stages), f"all {len(stages)} stages fit")
    does, them = ("stage does", "it") if len(large) == 1 else ("stages do", "them")
    changes = dict.fromkeys(change for each in stages for change in each.changes)
    return "\n  ".join([f"the {' and '.join(large)} {does} not fit; what makes {them} smaller:", *changes])


def card_size(text: str) -> float:
    """``24GB`` as bytes, as cards are sold: GiB. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise ConfigError(f"--card {text}: write its memory as 24GB.")
    return float(found[1]) * GIB


def clip_size(text: str) -> Size:
    """``832x480x81``: width, height and frames. Raises ConfigError."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip())
    if not found:
        raise ConfigError(f"--size {text}: write width, height and frames as 832x480x81.")
    width, height, frames = map(int, found.groups())
    return Size(frames, height, width)


def _of_pair(config: Config) -> str:
    return f" over the {PART_NAMES[config.part]} of a pair" if config.part else ""


def _of_cache(config: Config, need: Need) -> str:
    """As the preparation counts them before it begins: in 32 bits."""
    data = config.stage_data()
    if "cache" not in data.options or data.source is not None:
        return ""
    return f"; latents of {4 * prod(need.clip.latents) / 2**20:.2g} MiB a clip in the cache"


def _paths(config: Config, options: Any, need: Need, rate: float) -> Iterator[str]:
    made = plan(config, options, need.clip.latents)
    if made is None:
        return
    flop = made.count * made.calls * need.call
    shared = "" if config.pair else "one set for all stages, "
    yield (
        f"  the teacher's paths, {shared}made before by training/paths.py: {made.count} of {made.calls} calls, "
        f"{work(flop)}, {span(flop / 1e12 / rate)}; "
        f"{digits(made.batches * made.batch_bytes / GIB)} GiB of disk"
    )


def _of_card(one: Need, card: float, fits: bool) -> str:
    size = f"{card / GIB:g}"
    if fits:
        return f"  fits a card of {size} GB, with {_gib(_USABLE * card - one.memory)} GiB to spare of what can be used"
    return f"  does not fit: needs {_gib(one.memory)} GiB; {_gib(_USABLE * card)} of the card's {size} can be used"


def _smaller(config: Config, options: Any, need: Need) -> Iterator[str]:
    compute, stage = config.compute, f"stages.{config.stage}"
    if compute.checkpointing != "full":
        yield "compute.checkpointing=full"
    if need.at_once > 1:
        yield "compute.micro_batch=1"
    if compute.dtype == "float32":
        yield "compute.dtype=bfloat16"
    if getattr(options, "mode", "adapter") == "full":
        yield f"{stage}.options.mode=adapter"
    elif need.shards == 1 and not compute.offload:
        yield "compute.base=fp8 or nf4, or compute.offload=true" if compute.base is None else "compute.offload=true"
    if need.copies > need.activations:
        yield f"{stage}.optimizer.fused=true"
    if need.shards == 1 and config.selected().optimizer.name == "adamw":
        yield f"{stage}.optimizer.name=adamw8bit"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.2g}"
