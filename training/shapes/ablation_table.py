"""The table of an ablation: what came out, and what did not run and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcm_core.files.atomic import atomic_write

from .ablation import Ablation, Job, Row, of_row

_PERCENT = ("colour", "texture", "shape", "direction", "speed")
_VALUES = ("distance", *_PERCENT, "motion error", "sharpness")
_NOTE = (
    "Means over the seeds of the training, with their least and greatest; all rows from the same prompts and noise. "
    "calls: of the network, a clip. samples: clips that were trained on, all stages together. distance: of the latents "
    "to the teacher's 50 guided steps. LCM and PCM are the consistency part of their papers, without skipped steps and "
    "an adversary."
)


def write_table(ablation: Ablation) -> Path:
    """Write ``table.md``, and all results in ``results.json``, of what is there. Returns the former's path."""
    folder, sections, kept = Path(ablation.output), [], []
    for block in ablation.blocks:
        lines = [_line(["", "calls", "samples", "seeds", *_VALUES]), _line(["---", *["---:"] * (3 + len(_VALUES))])]
        for row in block.rows:
            made = of_row(ablation, block, row)
            found = [(job, result) for job in made if (result := job.result())]
            about = {"block": block.title, "name": row.name}
            kept += [{**about, "training_seed": job.seed, **result} for job, result in found]
            lines.append(_line(_cells(row, made, [result for _, result in found])))
        sections.append(f"## {block.title}\n\n" + "\n".join(lines))
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "results.json") as file:
        file.write((json.dumps(kept, indent=1) + "\n").encode())
    path = folder / "table.md"
    with atomic_write(path) as file:
        file.write(("\n\n".join([*sections, _NOTE, *_machines(kept)]) + "\n").encode())
    return path


def _machines(results: Sequence[dict[str, Any]]) -> list[str]:
    """Where they were made, one line if any were."""
    machines = sorted({f"{each['machine']}, PyTorch {each['torch']}" for each in results})
    return [f"Made on: {'; '.join(machines)}."] if machines else []


def _cells(row: Row, made: Sequence[Job], found: Sequence[dict[str, Any]]) -> list[str]:
    if not found:
        return [row.name, "", "", "", f"did not run: {made[0].why_not()}"]
    values = [_spread([each["values"][name] for each in found], name in _PERCENT) for name in _VALUES]
    seeds = f"{len(found)}" if len(found) == len(made) else f"{len(found)} of {len(made)}"
    return [row.name, str(found[0]["calls"]), str(found[0]["samples"]), seeds, *values]


def _spread(values: Sequence[float], percent: bool) -> str:
    shown = [f"{100 * value:.0f}%" if percent else f"{value:.3f}" for value in (min(values), max(values))]
    mean = sum(values) / len(values)
    told = f"{100 * mean:.0f}%" if percent else f"{mean:.3f}"
    return told if shown[0] == shown[1] else f"{told} ({shown[0]} to {shown[1]})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
