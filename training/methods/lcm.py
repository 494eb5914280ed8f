"""Latent consistency, a baseline: one network, every jump ends at the last noise level (LCM, arXiv 2310.04378)."""

from __future__ import annotations

from .distillation import DistillationOptions
from .pcm import PCM


class LCM(PCM):
    """Phased consistency with a single phase."""

    Options = DistillationOptions

    def spans(self) -> list[range]:
        return [range(self.schedule.grid.points)]


METHOD = LCM
