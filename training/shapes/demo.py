"""Four steps with two experts beside fifty teacher steps, on the shipped Shapes world: make demo"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..evaluation.report import Report, Row, record
from ..pictures import save_mp4, to_pixels
from .compare import MEASURES, Trial, compare
from .entrants import read_entrants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the videos and pictures")
    parser.add_argument("--prompts", type=int, default=8, help="how many prompts, 1 to 288")
    # The default is the seed whose eight prompts are the most varied.
    parser.add_argument("--seed", type=int, default=46, help="of the prompts and the noise")
    options = parser.parse_args()

    torch.set_num_threads(1)  # more cost such small networks more than they bring
    # What an expert does alone is for the table that is measured; the sheet would be too wide for it.
    entrants = [each for each in read_entrants() if not each.recipe["alone"]]
    print(f"Sampling {options.prompts} prompts in {len(entrants)} ways from the same noise.")
    trial = Trial.of(options.prompts, options.seed, again=0)
    rows = compare(entrants, trial, options.prompts)
    made = record("python -m training.shapes.demo", prompts=options.prompts, seed=options.seed)
    report = Report(rows, MEASURES, [list(MEASURES)], trial.captions, made)
    report.save(options.output)
    for number, caption in enumerate(trial.captions):
        video = options.output / f"{_file_name(number, caption)}.mp4"
        save_mp4(video, _beside(rows, number), rows[0].frames_per_second[number])
    print(f"\n{report.markdown()}\n")
    print("So few prompts cannot tell rows apart that lie near each other; training/evaluate.py measures 288.")
    print(f"Videos (first row left, last row right) and contact_sheet.png are in {options.output}.")


def _beside(rows: Sequence[Row], number: int) -> np.ndarray:
    """The reference and the last row side by side, [T, H, 2 W, 3]."""
    return np.concatenate([to_pixels(row.clips[number], scale=8) for row in (rows[0], rows[-1])], axis=2)


def _file_name(number: int, caption: str) -> str:
    return f"{number + 1:02d}_{caption.removeprefix('a ').replace(' ', '_')}"


if __name__ == "__main__":
    main()
