"""The interface of a callback, and what it sees of the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..config import Config, StageConfig
from ..methods.base import Method

if TYPE_CHECKING:
    from PIL.Image import Image


class TrainingRun(Protocol):
    """What a callback sees of a run: the trainer.

    ``folder``: where everything of the stage is written. ``iteration``: how many are done. ``first``: whether this
    process writes and prints; the others call the networks with it, which may be split among them.
    """

    config: Config
    stage: StageConfig
    method: Method
    folder: Path
    iteration: int

    @property
    def first(self) -> bool: ...

    def report(self, iteration: int, values: dict[str, float]) -> None:
        """Hand values to every callback that keeps them."""
        ...

    def show(self, iteration: int, name: str, picture: Image) -> None:
        """Hand a picture to every callback that keeps them."""
        ...

    def stop(self, reason: str) -> None:
        """End the stage after this iteration, as if it were the last."""
        ...

    def step_back(self) -> bool:
        """Go on from the last checkpoint, as a resumed run does; False where there is none."""
        ...


class Callback:
    """Override what you need. State that must survive a resume is what ``state`` returns.

    ``everywhere``: of several processes each has this callback, and not the first alone: it calls a network.
    """

    everywhere: ClassVar[bool] = False

    def start(self, run: TrainingRun) -> None:
        """Before the first iteration, after a resume has been loaded."""

    def before_step(self, run: TrainingRun) -> None:
        """Before each iteration, when all that is done between two of them is."""

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        """After each iteration, counted from 0, with its losses and gradient norms."""

    def failed(self, run: TrainingRun, iteration: int, error: FloatingPointError) -> bool:
        """A loss or gradient of an iteration is not finite. True where the run can go on all the same."""
        return False

    def report(self, run: TrainingRun, iteration: int, values: dict[str, float]) -> None:
        """Values to be kept, after so many iterations: means of the losses, results of a validation."""

    def show(self, run: TrainingRun, iteration: int, name: str, picture: Image) -> None:
        """A picture to be looked at, after so many iterations."""

    def left(self, run: TrainingRun) -> None:
        """The stage is left before its last iteration: it was asked to stop, or something went wrong."""

    def finish(self, run: TrainingRun) -> None:
        """After the last iteration and its checkpoint."""

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned; empty where the checkpoint has nothing of this callback."""
