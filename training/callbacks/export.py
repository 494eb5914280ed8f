"""Writes what was trained for ComfyUI when a stage is finished."""

from __future__ import annotations

from .base import Callback, TrainingRun


class Export(Callback):
    """Writes ``output/STAGE/STAGE.safetensors``, with averaged weights where they are kept."""

    everywhere = True

    def finish(self, run: TrainingRun) -> None:
        path = run.folder / f"{run.config.stage}.safetensors"
        with run.method.averaged():
            run.method.export(path)
        if run.first:
            print(f"Wrote {path}: {run.iteration} iterations. {run.method.usage}".rstrip())
