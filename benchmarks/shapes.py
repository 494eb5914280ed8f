"""The README's Shapes figures: every way of sampling over many clips, with 95% intervals.

python benchmarks/shapes.py [--clips 288]
"""

import argparse
import json
import math
import os
import platform
from pathlib import Path

import torch

from dcm_core.shapes.captions import ATTRIBUTES
from training.shapes.compare import Result, as_markdown, choose_prompts, compare
from training.shapes.entrants import shipped_entrants

_RESULTS = Path(__file__).parent / "results"
_HEADINGS = ("", "calls", "cfg", *ATTRIBUTES, "motion error", "sharpness", "distance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=288)
    parser.add_argument("--seed", type=int, default=2025)
    options = parser.parse_args()
    entrants, schedule = shipped_entrants()
    results = compare(entrants, choose_prompts(options.clips, options.seed), options.seed)
    rows = [_row(result) for result in results]
    record = {
        "command": f"python benchmarks/shapes.py --clips {options.clips} --seed {options.seed}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "experts": schedule.describe(entrants[-1].sigmas),
        "rows": [dict(zip(_HEADINGS, row, strict=True)) for row in rows],
    }
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / "shapes.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = as_markdown(rows, _HEADINGS)
    (_RESULTS / "shapes.md").write_text(f"{text}\n\n`{record['command']}`, 95% intervals\n", encoding="utf-8")
    print(text)


def _row(result: Result) -> tuple[str, ...]:
    count = len(result.prompts)
    right = [sum(result.right(attribute)) for attribute in ATTRIBUTES]
    return (
        result.entrant.name,
        str(result.entrant.network_calls),
        f"{result.entrant.guidance:g}",
        *(proportion(each, count) for each in right),
        mean_interval(result.motion_error),
        mean_interval(result.sharpness),
        mean_interval(result.distance.tolist()),
    )


def proportion(right: int, count: int) -> str:
    """A share with its 95% interval, such as 93% (90-95)."""
    low, high = wilson(right, count)
    return f"{right / count:.0%} ({100 * low:.0f}-{100 * high:.0f})"


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion by Wilson's formula."""
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: list[float], z: float = 1.96) -> str:
    """mean +- half width of the 95% interval of the mean."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return f"{tensor.mean():.3f} +-{z * tensor.std() / math.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
