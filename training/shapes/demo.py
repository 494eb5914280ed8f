"""Four steps with two experts beside fifty teacher steps, on the shipped Shapes world: make demo"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcm_core.shapes.captions import Attributes
from dcm_core.shapes.render import FRAMES, FRAMES_PER_SECOND

from ..pictures import save_mp4, save_png, sheet, strip, to_pixels
from .compare import Result, as_markdown, choose_prompts, compare, table
from .entrants import shipped_entrants

_SHOWN_FRAMES = (0, FRAMES // 3, 2 * FRAMES // 3, FRAMES - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the videos and pictures")
    parser.add_argument("--prompts", type=int, default=8, help="how many prompts, 1 to 288")
    # The default is the seed whose eight prompts are the most varied.
    parser.add_argument("--seed", type=int, default=46, help="of the prompts and the noise")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    entrants, schedule = shipped_entrants()
    print(f"Sampling {options.prompts} prompts in {len(entrants)} ways from the same noise.")
    print(f"Both experts: {schedule.describe(entrants[-1].sigmas)}")
    results = compare(entrants, choose_prompts(options.prompts, options.seed), options.seed)

    save_png(options.output / "contact_sheet.png", contact_sheet(results))
    for number, prompt in enumerate(results[0].prompts):
        save_mp4(options.output / f"{_file_name(number, prompt)}.mp4", _beside(results, number), FRAMES_PER_SECOND)
    text = as_markdown(table(results))
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n")
    print(
        "Accuracies: clips whose pixels show the prompted word. motion error: pixels a frame, 0 is perfect. "
        "sharpness: 1 is perfect. distance: to the first row's latents, 0 is the same video."
    )
    print(f"Videos (first row left, last row right) and contact_sheet.png are in {options.output}.")


def contact_sheet(results: Sequence[Result]):
    """Every prompt a row, every way of sampling a column, four frames each."""
    columns = [f"{result.entrant.name} ({result.entrant.network_calls} calls)" for result in results]
    rows = [
        (prompt.caption(), [strip(result.clips[i], _SHOWN_FRAMES, scale=3) for result in results])
        for i, prompt in enumerate(results[0].prompts)
    ]
    return sheet(f"The same noise and prompt, sampled in {len(results)} ways", columns, rows)


def _beside(results: Sequence[Result], number: int) -> np.ndarray:
    """The reference and the last entrant side by side, [T, H, 2 W, 3]."""
    return np.concatenate([to_pixels(result.clips[number], scale=8) for result in (results[0], results[-1])], axis=2)


def _file_name(number: int, prompt: Attributes) -> str:
    return f"{number + 1:02d}_{prompt.caption().removeprefix('a ').replace(' ', '_')}"


if __name__ == "__main__":
    main()
