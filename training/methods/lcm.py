"""Latent consistency, a baseline: one network, every jump ends at the last noise level (LCM, arXiv 2310.04378)."""

from __future__ import annotations

from .pcm import PCM, SingleOptions


class LCM(PCM):
    """Phased consistency with a single phase."""

    Options = SingleOptions

    def spans(self) -> list[range]:
        return [self.part.indices(self)]


METHOD = LCM
