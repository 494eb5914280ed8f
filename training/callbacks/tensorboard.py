"""The reported values as TensorBoard curves, where tensorboard is installed."""

import logging

from .base import Callback

logger = logging.getLogger(__name__)


class TensorBoard(Callback):
    """Writes into `<output>/<stage>/tensorboard`; look at it with `tensorboard --logdir <output>`."""

    def start(self, trainer) -> None:
        self.writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("tensorboard is not installed: no curves, the values stand in log.jsonl.")
            return
        # what an interrupted run wrote beyond its last checkpoint will be written again
        self.writer = SummaryWriter(str(trainer.folder / "tensorboard"), purge_step=trainer.iteration)

    def report(self, trainer, iteration: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if self.writer is not None:
                self.writer.add_scalar(name, value, iteration)

    def finish(self, trainer) -> None:
        if self.writer is not None:
            self.writer.close()
