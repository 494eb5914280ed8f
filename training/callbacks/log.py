"""Progress bar with losses and time left, and a line of JSON per logged iteration."""

from __future__ import annotations

import json
from typing import Any

from tqdm import tqdm

from .base import Callback, Run


class Log(Callback):
    """Reports the mean of each metric every ``every`` iterations; all reports are appended to ``log.jsonl``."""

    def __init__(self, every: int):
        self.every = every
        self.sums: dict[str, float] = {}
        self.count = 0

    def start(self, run: Run) -> None:
        self.bar = tqdm(
            total=run.stage.iterations,
            initial=run.iteration,
            desc=run.config.stage,
            mininterval=1,
        )

    def after_step(self, run: Run, iteration: int, metrics: dict[str, float]) -> None:
        self.bar.update()
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if (iteration + 1) % self.every == 0:
            means = {name: total / self.count for name, total in self.sums.items()}
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
            run.report(iteration + 1, means)
            self.sums, self.count = {}, 0

    def report(self, run: Run, iteration: int, values: dict[str, float]) -> None:
        with (run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **values}) + "\n")

    def finish(self, run: Run) -> None:
        self.bar.close()

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.sums, self.count = state.get("sums", {}), state.get("count", 0)
