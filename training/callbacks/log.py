"""Progress bar and a line of JSON per logged iteration."""

import json
import math

from tqdm import tqdm

from .base import Callback


class Log(Callback):
    """Shows losses and time left; appends the mean of each metric to `log.jsonl` every `every` iterations."""

    def __init__(self, every: int):
        self.every = every
        self.sums: dict[str, float] = {}
        self.count = 0

    def start(self, trainer) -> None:
        self.bar = tqdm(total=trainer.stage.iterations, initial=trainer.iteration, desc=trainer.config.stage, mininterval=1)
        trainer.folder.mkdir(parents=True, exist_ok=True)

    def after_step(self, trainer, iteration: int, metrics: dict[str, float]) -> None:
        self.bar.update()
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if (iteration + 1) % self.every == 0:
            means = {name: total / self.count for name, total in self.sums.items()}
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
            with (trainer.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps({"iteration": iteration + 1, **means}) + "\n")
            self.sums, self.count = {}, 0
            if not all(math.isfinite(value) for value in means.values()):
                raise FloatingPointError(f"Training has diverged at iteration {iteration + 1}: {means}. Lower the learning rate.")

    def finish(self, trainer) -> None:
        self.bar.close()
