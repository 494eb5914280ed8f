"""The reported values and strips in Weights & Biases, for those who use it."""

from __future__ import annotations

import hashlib
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Callback, TrainingRun

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class WandB(Callback):
    """Sends them to the project that ``wandb`` names; a resumed stage goes on in its run."""

    run: Any = None
    picture: Any = None

    def start(self, run: TrainingRun) -> None:
        if run.config.wandb is None or self.run is not None:
            return
        try:
            wandb = import_module("wandb")
        except ImportError:
            logger.warning("wandb=%s, but the package is not installed: pip install wandb.", run.config.wandb)
            return
        self.run = wandb.init(
            project=run.config.wandb,
            name=run.config.stage,
            id=hashlib.sha256(str(run.folder.absolute()).encode()).hexdigest()[:12],
            resume="allow",
            dir=str(run.folder),
            config=run.config.model_dump(mode="json"),
        )
        self.picture = wandb.Image
        self.run.define_metric("*", step_metric="iteration")

    def report(self, run: TrainingRun, iteration: int, values: dict[str, float]) -> None:
        if self.run is not None:
            self.run.log({"iteration": iteration, **values})

    def show(self, run: TrainingRun, iteration: int, name: str, picture: Image) -> None:
        if self.run is not None:
            self.run.log({"iteration": iteration, name: self.picture(picture)})

    def finish(self, run: TrainingRun) -> None:
        if self.run is not None:
            self.run.finish()
