"""Writes what was trained for ComfyUI when a stage is finished."""

from .base import Callback
from .ema import ExponentialAverage


class Export(Callback):
    """Writes `<output>/<stage>/<stage>.safetensors`, with averaged weights where they are kept."""

    def finish(self, trainer) -> None:
        path = trainer.folder / f"{trainer.config.stage}.safetensors"
        with ExponentialAverage.of(trainer):
            trainer.method.export(path)
        print(f"Wrote {path}")
