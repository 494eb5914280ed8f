"""The first iterations under PyTorch's profiler, and on a GPU a snapshot of its memory, on request."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from .base import Callback, TrainingRun

_ROWS = 30


class Profile(Callback):
    """Writes ``output/STAGE/profile``: a table of the operators, a trace for https://ui.perfetto.dev, and on a GPU
    ``memory.pickle`` for https://pytorch.org/memory_viz."""

    profiler: profile | None = None

    def start(self, run: TrainingRun) -> None:
        if not run.config.profile or run.iteration == run.stage.iterations:
            return
        self.last = min(run.iteration + run.config.profile, run.stage.iterations)
        activities = [ProfilerActivity.CPU]
        if run.method.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history()
        self.profiler = profile(activities=activities, profile_memory=True)
        self.profiler.start()

    def after_step(self, run: TrainingRun, iteration: int, metrics: dict[str, float]) -> None:
        if self.profiler is None or iteration + 1 < self.last:
            return
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        folder = run.folder / "profile"
        folder.mkdir(exist_ok=True)
        gpu = run.method.device.type == "cuda"
        order = "self_cuda_time_total" if gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=_ROWS)
        (folder / "operators.txt").write_text(table, encoding="utf-8")
        profiler.export_chrome_trace(str(folder / "trace.json"))
        if gpu:
            torch.cuda.memory._dump_snapshot(str(folder / "memory.pickle"))
            torch.cuda.memory._record_memory_history(enabled=None)
