"""The reported values as TensorBoard curves, and the validation's strips, where tensorboard is installed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .base import Callback, TrainingRun

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class TensorBoard(Callback):
    """Writes into ``output/STAGE/tensorboard``; look at it with ``tensorboard --logdir output``."""

    writer: SummaryWriter | None = None

    def start(self, run: TrainingRun) -> None:
        self.finish(run)
        self.writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("tensorboard is not installed: no curves, the values stand in log.jsonl.")
            return
        # what an interrupted run wrote beyond its last checkpoint will be written again
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.iteration + 1)

    def report(self, run: TrainingRun, iteration: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if self.writer is not None:
                self.writer.add_scalar(name, value, iteration)

    def show(self, run: TrainingRun, iteration: int, name: str, picture: Image) -> None:
        if self.writer is not None:
            import numpy as np

            self.writer.add_image(name, np.asarray(picture), iteration, dataformats="HWC")

    def finish(self, run: TrainingRun) -> None:
        if self.writer is not None:
            self.writer.close()
