"""What ``inspect`` says of a LoRA's noise levels: its passport, or how it gets one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import ExpertFileError
from ..expert.other_files import speed_lora_of
from ..files.stream import TensorSource
from ..schedule.experts import steps_text
from ..schedule.passport import Passport


def lora_report(source: TensorSource) -> dict[str, Any]:
    """An ordinary LoRA: a speed LoRA by its passport or its name, or one that nothing is known of."""
    said = {
        "file": ", ".join(map(str, source.paths)),
        "kind": "LoRA",
        "bytes": sum(os.path.getsize(path) for path in source.paths),
        "dtype": dtypes_text(source),
        "tensors": len(source.infos),
        "metadata": dict(sorted(source.metadata.items())),
    }
    try:
        speed = speed_lora_of(source.paths[0])
    except ExpertFileError as error:
        return said | {"doubt": str(error).removeprefix(f"{source.paths[0]}: ")}
    if speed is None:
        return said | {"passport": None}
    return said | {"kind": "speed LoRA", **passport_report(speed.passport, speed.why)}


def passport_report(passport: Passport | None, why: str = "by its own metadata") -> dict[str, Any]:
    """What a passport says, as JSON has it, and how it was recognised; nothing of an expert without one."""
    if passport is None:
        return {}
    names = ("title", "source", "family", "usual_steps", "shift", "samplers", "cfg", "strength", "boundary", "expert")
    said = {name: getattr(passport, name) for name in names}
    said = {name: value for name, value in said.items() if value not in (None, "", ())}
    lists = {str(steps): list(values) for steps, values in passport.sigmas.items()}
    return {"recognised": why, "passport": {"sigmas": lists, **said}, "settings": passport.settings}


def speed_text(said: Mapping[str, Any]) -> list[str]:
    """The lines of ``inspect`` for people."""
    if "passport" not in said:
        return []
    passport = said["passport"]
    if passport is None:
        return [
            "  no noise levels are known of it; into a speed LoRA they are written by",
            f"    python -m dcm_core.convert stamp {said['file']} --sigmas ...",
        ]
    title = f"{passport['title']}, " if "title" in passport else ""
    source = f", as {passport['source']} says" if "source" in passport else ""
    lines = [f"  {title}{said['recognised']}{source}"]
    lines += [
        f"  {steps_text(int(steps))}: {' '.join(f'{sigma:.4f}' for sigma in sigmas)}"
        for steps, sigmas in passport["sigmas"].items()
    ]
    return [*lines, f"  {said['settings']}"] if said["settings"] else lines


def dtypes_text(source: TensorSource) -> str:
    return " and ".join(sorted({info.dtype for info in source.infos.values() if info.shape}))
