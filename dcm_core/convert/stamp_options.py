"""A passport as the options of the command line: ``stamp FILE --sigmas 1 0.75 0.5 0.25 --cfg 1``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from ..families.presets import FAMILIES
from ..schedule.passport import SIDES, Passport
from ..schedule.speed_loras import known_preset

_SAID = ("shift", "cfg", "strength", "boundary", "expert", "family", "title")


def add_passport_options(parser: argparse.ArgumentParser) -> None:
    lists = "noise levels of one number of steps, falling, without the final 0; once for each number, the usual first"
    samplers = "by ComfyUI's names, the one it was made for first"
    families = [name for name, family in FAMILIES.items() if family.schedule.grid.prediction == "flow"]
    parser.add_argument("--sigmas", nargs="+", action="append", metavar="SIGMA", help=lists)
    parser.add_argument("--preset", metavar="NAME", help="all that is known of a speed LoRA, by its name in DCM Sigmas")
    parser.add_argument("--shift", type=float, help="the one that the noise levels were made by")
    parser.add_argument("--sampler", nargs="+", metavar="NAME", help=samplers)
    parser.add_argument("--cfg", type=float, help="the cfg it was made for")
    parser.add_argument("--strength", type=float, help="of the LoRA")
    parser.add_argument("--boundary", type=float, help="noise level from which on the high-noise model of a pair acts")
    parser.add_argument("--expert", choices=SIDES, help="the model of a pair that it is for")
    parser.add_argument("--family", choices=families, help="of the backbone")
    parser.add_argument("--title", help="what people call it")
    parser.add_argument("--source", dest="address", help="an address that says so")


def passport_from(options: argparse.Namespace) -> Passport:
    """What the options say. Raises ValueError for what no run could follow, and ends the command for wrong options."""
    if bool(options.sigmas) == bool(options.preset):
        options.parser.error("stamp needs either --sigmas SIGMA ... or --preset NAME")
    said = {name: value for name in _SAID if (value := getattr(options, name)) is not None}
    if options.sampler:
        said["samplers"] = tuple(options.sampler)
    if options.address:
        said["source"] = options.address
    if options.preset:
        return replace(known_preset(options.preset), **said)
    lists = [_listed(words) for words in options.sigmas]
    if len(dict(lists)) < len(lists):
        raise ValueError("--sigmas gives two lists for one number of steps: leave one out.")
    return Passport(dict(lists), **said)


def _listed(words: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    """One list, typed with or without commas and the final 0, by its number of steps."""
    sigmas = tuple(float(number) for word in words for number in word.split(",") if number)
    sigmas = sigmas[:-1] if sigmas[-1:] == (0.0,) else sigmas
    return len(sigmas), sigmas
