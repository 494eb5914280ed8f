"""Progress bar with losses and time left, and a line of JSON per logged iteration."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dcm_core.files.atomic import atomic_write

from .base import Callback, TrainingRun


class Log(Callback):
    """Reports the mean of each metric every ``every`` iterations; all reports are appended to ``log.jsonl``."""

    def __init__(self, every: int):
        self.every = every
        self.bar = tqdm(disable=True)
        self.sums: dict[str, float] = {}
        self.count = 0
        self.left_off = 0.0  # when the last iteration ended

    def start(self, run: TrainingRun) -> None:
        _forget(run.folder / "log.jsonl", run.iteration)
        self.bar.close()
        self.bar = tqdm(
            total=run.stage.iterations,
            initial=run.iteration,
            desc=run.config.stage,
            mininterval=1,
            ncols=80,
            bar_format="{desc} {n_fmt}/{total_fmt} {remaining}{postfix} {bar}",
            disable=run.iteration == run.stage.iterations,
        )
        self.left_off = time.perf_counter()

    def before_step(self, run: TrainingRun) -> None:
        """The time left is told of iterations alone: what is measured before and between them may take as long as a
        hundred of them."""
        if not self.bar.disable:
            pause = time.perf_counter() - self.left_off
            self.bar.start_t += pause
            self.bar.last_print_t += pause

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        self.bar.update()
        self.left_off = time.perf_counter()
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if (iteration + 1) % self.every == 0:
            means = {name: total / self.count for name, total in self.sums.items()}
            self.bar.set_postfix_str(shortened(means))
            run.report(iteration + 1, means)
            self.sums, self.count = {}, 0

    def report(self, run: TrainingRun, iteration: int, values: dict[str, float]) -> None:
        with (run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **values}) + "\n")

    def left(self, run: TrainingRun) -> None:
        self.bar.close()  # what is said next begins a line

    def finish(self, run: TrainingRun) -> None:
        self.bar.close()

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.sums, self.count = state.get("sums", {}), state.get("count", 0)


def shortened(losses: dict[str, float]) -> str:
    """The losses for a line of 80 columns: the first letters of their names, two digits; log.jsonl has the rest."""
    return " ".join(f"{name[:4]} {value:.2g}" for name, value in losses.items() if not name.startswith("grad_norm"))


def _forget(path: Path, iteration: int) -> None:
    """Drop what was logged after ``iteration``, and a line that was cut off: it will be written again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _iteration(line) <= iteration]
    if kept != lines:
        with atomic_write(path) as file:
            file.write("".join(kept).encode())


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return math.inf
