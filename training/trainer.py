"""The training loop: method, callbacks, checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dcm_core.files.atomic import atomic_write

from .callbacks.base import Callback
from .callbacks.export import Export
from .callbacks.log import Log
from .callbacks.tensorboard import TensorBoard
from .callbacks.validation import Validation
from .callbacks.verdict import Verdict
from .config import Config, to_yaml
from .data.ahead import ReadAhead
from .errors import ConfigError, unknown
from .methods.base import Method, Setup
from .registry import build_backbone, build_data, build_method
from .run.checkpoint import Checkpoints
from .run.record import check_unchanged

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)
_DEVICES = ("auto", "cpu", "cuda")


class Trainer:
    """Runs the selected stage of a configuration, from its last checkpoint where there is one.

    Everything is written into ``output/STAGE``.
    """

    def __init__(self, config: Config, method: Method, callbacks: list[Callback]):
        self.config, self.stage, self.method, self.callbacks = config, config.selected(), method, callbacks
        self.folder = Path(config.output) / config.stage
        self.checkpoints = Checkpoints(self.folder)
        self.iteration = 0

    def describe(self) -> str:
        """One line: stage, method, how much is trained, where it runs and where the results go."""
        count = sum(p.numel() for p in self.method.trainable.values())
        return (
            f"stage {self.config.stage}: {self.stage.method}, {count / 1e6:.2f} M trained parameters, "
            f"{self.stage.iterations} iterations of {self.method.data.batch_size} on {self.method.device}, "
            f"into {self.folder}"
        )

    def run(self, restart: bool = False) -> None:
        """Train to the configured number of iterations, or anew from the first.

        Raises OSError, before training, for an unwritable output, and ConfigError for a checkpoint of weights that
        were trained with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if restart:
            self.checkpoints.remove()
        if self.checkpoints.exist():
            self.load()
        with atomic_write(self.folder / "config.yaml") as file:
            file.write(to_yaml(self.config).encode())
        print(self.describe() + self._begun())
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

    def _begun(self) -> str:
        if self.iteration == self.stage.iterations:
            return (
                f"\nFinished already, nothing is trained: more iterations go on from here, --restart "
                f"stage={self.config.stage} begins anew."
            )
        return f", continued from iteration {self.iteration}" if self.iteration else ""

    def report(self, iteration: int, values: dict[str, float]) -> None:
        """Hand values to every callback that keeps them."""
        for callback in self.callbacks:
            callback.report(self, iteration, values)

    def show(self, iteration: int, name: str, picture: Image) -> None:
        """Hand a picture to every callback that keeps them."""
        for callback in self.callbacks:
            callback.show(self, iteration, name, picture)

    def save(self) -> None:
        """Write the checkpoint; the former one survives until the new one is complete."""
        state = {
            "iteration": self.iteration,
            "iterations": self.stage.iterations,
            "trained_with": self.method.trained_with(),
            "method": self.method.state(),
            "callbacks": {type(callback).__name__: callback.state() for callback in self.callbacks},
        }
        self.checkpoints.save(state)

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises ConfigError where it belongs to another configuration or version, OSError where it cannot be read.
        """
        state, path = self.checkpoints.load(), self.checkpoints.newest
        stage, done = self.config.stage, state["iteration"]
        check_unchanged(state["trained_with"], self.method.trained_with(), path, stage)
        if done > self.stage.iterations:
            raise ConfigError(
                f"stages.{stage}.iterations is {self.stage.iterations}, and the weights in {path} have {done} behind "
                f"them: ask for as many or more, choose another output, or train anew with --restart stage={stage}."
            )
        try:
            self.method.load(state["method"])
            for callback in self.callbacks:
                callback.load(state["callbacks"].get(type(callback).__name__, {}))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{path} does not fit this stage's networks ({error}). "
                f"Choose another output, or train the stage anew with --restart stage={stage}."
            ) from None
        if state["iterations"] != self.stage.iterations and self.stage.optimizer.schedule == "cosine":
            logger.warning(
                "The learning rate's cosine spanned %d iterations so far, from here on it is that over %d.",
                state["iterations"], self.stage.iterations,
            )  # fmt: skip
        self.iteration = done


def build_trainer(config: Config) -> Trainer:
    """Everything that the selected stage of a configuration needs. Raises ConfigError."""
    device, data = usable_device(config.device), build_data(config.stage_data())
    try:
        data.conditions(config.validation.prompts)  # what would be wrong at the first validation is noticed now
    except ValueError as error:
        raise ConfigError(f"validation.prompts: {error}") from None
    read: Any = ReadAhead(data) if config.compute.read_ahead else data
    method = build_method(Setup(config, build_backbone(config.backbone), read, device))
    method.prepare()
    return Trainer(config, method, [Log(config.log_every), TensorBoard(), Validation(), Export(), Verdict()])


def usable_device(name: str) -> torch.device:
    """The device of that name. Raises ConfigError for one that is not here or that the trainer does not know."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, _DEVICES) from None
    if device.type not in _DEVICES:
        raise unknown("device", name, _DEVICES)
    if device.type == "cuda" and (device.index or 0) >= there:
        raise ConfigError(
            f"device={name!r}: PyTorch {torch.__version__} finds {there or 'no'} CUDA GPU{'s' * (there > 1)} here. "
            "Use device=cpu, or install a driver and a CUDA build of PyTorch."
        )
    return device
