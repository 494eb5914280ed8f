"""The training loop: method, callbacks, checkpoints."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dcm_core.files.atomic import atomic_write

from .callbacks.alarms import Alarms
from .callbacks.base import Callback
from .callbacks.card import Card
from .callbacks.export import Export
from .callbacks.jump_error import JumpError
from .callbacks.log import Log
from .callbacks.profile import Profile
from .callbacks.tensorboard import TensorBoard
from .callbacks.validation import Validation
from .callbacks.verdict import Verdict
from .callbacks.wandb import WandB
from .config import Config, to_yaml
from .data.ahead import ReadAhead
from .errors import ConfigError, Stopped
from .methods.base import Method, Setup
from .registry import build_backbone, build_method, build_training_data
from .run.checkpoint import Checkpoints
from .run.record import CONTENT, Record, check_unchanged
from .run.signals import StopRequest
from .run.world import join

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class Trainer:
    """Runs the selected stage of a configuration, from its last checkpoint where there is one.

    Everything is written into ``output/STAGE``.
    """

    def __init__(self, config: Config, method: Method, callbacks: list[Callback]):
        self.config, self.stage, self.method, self.world = config, config.selected(), method, method.world
        self.callbacks = [callback for callback in callbacks if self.first or callback.everywhere]
        self.folder = Path(config.output) / config.stage
        self.checkpoints = Checkpoints(self.folder, self.world, config.checkpoints_kept)
        self.iteration = 0
        self.saved_at = time.monotonic()
        self.stopped = False

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.world.first

    def describe(self) -> str:
        """One line: stage, method, how much is trained, where it runs and where the results go."""
        count = sum(p.numel() for p in self.method.trainable.values())
        where = self.method.device.type if self.world.size == 1 else f"{self.world.size} x {self.method.device.type}"
        return (
            f"stage {self.config.stage}: {self.stage.method}, {count / 1e6:.2f} M trained parameters, "
            f"{self.stage.iterations} iterations of {self.method.data.batch_size} on {where}, "
            f"into {self.folder}"
        )

    def run(self, restart: bool = False) -> None:
        """Train to the configured number of iterations, or anew from the first.

        Raises, before training, OSError for an output that is unwritable or has too little room, and ConfigError for a
        checkpoint of weights that were trained with other settings; Stopped where it was asked to stop and has saved.
        """
        if restart:
            self.checkpoints.remove()
        if self.checkpoints.exist():
            self.load()
        to_come = math.ceil((self.stage.iterations - self.iteration) / self.config.checkpoint_every)
        self.checkpoints.check_room(self.method.tensors(), to_come)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.first:
            with atomic_write(self.folder / "config.yaml") as file:
                file.write(to_yaml(self.config).encode())
            print(self.describe() + self._begun())
        for callback in self.callbacks:
            callback.start(self)
        self.saved_at = time.monotonic()
        with StopRequest(self.folder) as request:
            try:
                while self.iteration < self.stage.iterations and not self.stopped:
                    self._iterate(request)
            except BaseException:
                for callback in self.callbacks:
                    callback.left(self)
                raise
            for callback in self.callbacks:
                callback.finish(self)

    def _iterate(self, request: StopRequest) -> None:
        for callback in self.callbacks:
            callback.before_step(self)
        try:
            metrics = self.method.step(self.iteration)
        except FloatingPointError as error:
            if not any(callback.failed(self, self.iteration, error) for callback in self.callbacks):
                raise
            return
        for callback in self.callbacks:
            callback.after_step(self, self.iteration, metrics)
        self.iteration += 1
        # Each process has a clock and signals of its own: what one of them says holds for all.
        stop, self.stopped = self.world.any(request.made()), self.world.any(self.stopped)
        if self.world.any(self._due()) or stop:
            self.save()
        if stop:
            request.obeyed()  # after the last iteration too, or a longer run would end where it begins
        if stop and self.iteration < self.stage.iterations:
            raise Stopped(
                f"Stopped as asked after iteration {self.iteration} of {self.stage.iterations} and saved in "
                f"{self.checkpoints.all()[0]}: the same command goes on from there."
            )

    def _due(self) -> bool:
        """Whether it is time for a checkpoint."""
        minutes = self.config.checkpoint_minutes
        return (
            self.iteration % self.config.checkpoint_every == 0
            or self.iteration == self.stage.iterations
            or self.stopped
            or (minutes is not None and time.monotonic() - self.saved_at > 60 * minutes)
        )

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

    def stop(self, reason: str) -> None:
        """End the stage after this iteration, as if it were the last."""
        self.stopped = True
        logger.warning("Stage %s stops early: %s.", self.config.stage, reason)

    def step_back(self) -> bool:
        """Go on from the last checkpoint, as a resumed run does; False where there is none."""
        if not self.checkpoints.exist():
            return False
        for learner in self.method.learners.values():
            learner.forget_gradients()
        self.load()
        for callback in self.callbacks:
            callback.start(self)
        return True

    def save(self) -> None:
        """Write a checkpoint; the former ones survive until it is complete."""
        state = {
            "iteration": self.iteration,
            "iterations": self.stage.iterations,
            "trained_with": self._trained_with(),
            "method": self.method.state(),
            "callbacks": {type(callback).__name__: callback.state() for callback in self.callbacks},
        }
        self.checkpoints.save(self.iteration, state, self.method.tensors())
        self.saved_at = time.monotonic()

    def _trained_with(self) -> Record:
        content = self.method.data.content
        return self.method.trained_with() | ({CONTENT: content} if content else {})

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises ConfigError where it belongs to another configuration or version, OSError where it cannot be read.
        """
        path, state = self.checkpoints.newest()
        stage, done = self.config.stage, state["iteration"]
        check_unchanged(state["trained_with"], self._trained_with(), path, stage)
        if done > self.stage.iterations:
            raise ConfigError(
                f"stages.{stage}.iterations is {self.stage.iterations}, and the weights in {path} have {done} behind "
                f"them: ask for as many or more, choose another output, or train anew with --restart stage={stage}."
            )
        try:
            self.checkpoints.read(path, self.method.tensors())
            self.method.load(state["method"])
            for callback in self.callbacks:
                callback.load(state["callbacks"].get(type(callback).__name__, {}))
        except torch.cuda.OutOfMemoryError:  # a RuntimeError, but nothing is wrong with the checkpoint
            raise
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
        self.iteration = self.method.done = done


def build_trainer(config: Config) -> Trainer:
    """Everything that the selected stage of a configuration needs. Raises ConfigError."""
    world, data = join(config), build_training_data(config)
    try:
        data.conditions(config.validation.prompts)  # what would be wrong at the first validation is noticed now
    except ValueError as error:
        raise ConfigError(f"validation.prompts: {error}") from None
    if data.made_for not in (None, config.backbone.name):
        raise ConfigError(
            f"data.name={config.stage_data().name}: its clips were prepared for {data.made_for}, and backbone.name is "
            f"{config.backbone.name}. Run training/prepare.py with --backbone {config.backbone.name}."
        )
    method = build_method(Setup(config, build_backbone(config.backbone), data, world))
    if config.compute.read_ahead:
        ahead: Any = ReadAhead(data)
        method.data = ahead
    watching = [TensorBoard(), WandB(), Alarms(), JumpError(), Validation()]
    return Trainer(config, method, [Log(config.log_every), *watching, Profile(), Export(), Card(), Verdict()])
