"""The training loop: method, callbacks, checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from dcm_core.files.atomic import atomic_write

from .callbacks.base import Callback
from .callbacks.export import Export
from .callbacks.log import Log
from .callbacks.tensorboard import TensorBoard
from .callbacks.validation import Validation
from .checkpoint import load_state, save_state
from .config import Config, ConfigError, to_yaml, unknown
from .methods.base import Method, Setup
from .registry import build_backbone, build_data, build_method


class Trainer:
    """Runs the selected stage of a configuration, from its last checkpoint where there is one.

    Everything is written into ``output/STAGE``.
    """

    def __init__(self, config: Config, method: Method, callbacks: list[Callback]):
        self.config, self.stage, self.method, self.callbacks = config, config.selected(), method, callbacks
        self.folder = Path(config.output) / config.stage
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.iteration = 0

    def describe(self) -> str:
        """One line: stage, method, how much is trained, where it runs and where the results go."""
        count = sum(p.numel() for p in self.method.trainable.values())
        return (
            f"stage {self.config.stage}: {self.stage.method}, {count / 1e6:.2f} M trained parameters, "
            f"{self.stage.iterations} iterations of {self.method.data.batch_size} on {self.method.device}, "
            f"into {self.folder}"
        )

    def run(self) -> None:
        """Train to the configured number of iterations. Raises OSError, before training, for an unwritable output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "config.yaml") as file:
            file.write(to_yaml(self.config).encode())
        if self.checkpoint.exists():
            self.load()
        print(self.describe() + (f", continued from iteration {self.iteration}" if self.iteration else ""))
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

    def report(self, iteration: int, values: dict[str, float]) -> None:
        """Hand values to every callback that keeps them."""
        for callback in self.callbacks:
            callback.report(self, iteration, values)

    def save(self) -> None:
        """Write the checkpoint; the former one survives until the new one is complete."""
        state = {
            "iteration": self.iteration,
            "method": self.method.state(),
            "callbacks": {type(callback).__name__: callback.state() for callback in self.callbacks},
        }
        save_state(self.checkpoint, state)

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises ConfigError where it belongs to another configuration or version, OSError where it cannot be read.
        """
        state = load_state(self.checkpoint)
        try:
            self.method.load(state["method"])
            for callback in self.callbacks:
                callback.load(state["callbacks"].get(type(callback).__name__, {}))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{self.checkpoint} was written with another configuration ({error}). "
                "Use the configuration saved beside it, another output, or delete it to start again."
            ) from None
        self.iteration = state["iteration"]


def build_trainer(config: Config) -> Trainer:
    """Everything that the selected stage of a configuration needs. Raises ConfigError."""
    device, data = _device(config.device), build_data(config.stage_data(), config.seed)
    try:
        data.text(config.validation.prompts)  # what would be wrong at the first validation is noticed now
    except ValueError as error:
        raise ConfigError(f"validation.prompts: {error}") from None
    method = build_method(Setup(config, build_backbone(config.backbone), data, device))
    if config.compile is not None:
        method.compile(config.compile)
    return Trainer(config, method, [Log(config.log_every), TensorBoard(), Validation(), Export()])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from None
