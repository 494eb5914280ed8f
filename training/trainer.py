"""The training loop: method, callbacks, checkpoints."""

from pathlib import Path

from .callbacks import Callback
from .checkpoint import load_state, save_state
from .config import Config
from .methods import Method


class Trainer:
    """Runs the selected stage of a configuration, from its last checkpoint where there is one."""

    def __init__(self, config: Config, method: Method, callbacks: list[Callback]):
        self.config, self.stage, self.method, self.callbacks = config, config.selected(), method, callbacks
        self.folder = Path(config.output) / config.stage
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.iteration = 0

    def run(self) -> None:
        """Train to the configured number of iterations."""
        if self.checkpoint.exists():
            self.load()
        for callback in self.callbacks:
            callback.start(self)
        while self.iteration < self.stage.iterations:
            metrics = self.method.step(self.iteration)
            for callback in self.callbacks:
                callback.after_step(self, self.iteration, metrics)
            self.iteration += 1
            if self.iteration % self.config.checkpoint_every == 0 or self.iteration == self.stage.iterations:
                self.save()
        for callback in self.callbacks:
            callback.finish(self)

    def save(self) -> None:
        """Write the checkpoint; the former one survives until the new one is complete."""
        state = {
            "iteration": self.iteration,
            "method": self.method.state(),
            "callbacks": {type(callback).__name__: callback.state() for callback in self.callbacks},
        }
        save_state(self.checkpoint, state)

    def load(self) -> None:
        """Continue from the checkpoint."""
        state = load_state(self.checkpoint)
        self.iteration = state["iteration"]
        self.method.load(state["method"])
        for callback in self.callbacks:
            callback.load(state["callbacks"].get(type(callback).__name__, {}))
