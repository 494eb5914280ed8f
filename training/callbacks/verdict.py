"""What a few clips of the finished stage show, where the data can tell right from wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Callback, TrainingRun


class Verdict(Callback):
    """Samples from noise of the validation's seed, with averaged weights where they are kept; draws nothing else."""

    everywhere = True

    @torch.no_grad()
    def finish(self, run: TrainingRun) -> None:
        config, method = run.config.validation, run.method
        if run.config.pair:  # one model of it samples no clip from noise
            return

        def sample(captions: list[str]) -> Tensor:
            generator = torch.Generator().manual_seed(config.seed)
            noise = torch.randn(len(captions), *method.data.latent_shape, generator=generator).to(method.device)
            with method.averaged():
                return method.sample(noise, method.data.conditions(captions).to(method.device), config.steps)

        try:
            told = method.data.verdict(sample)
        except FloatingPointError as error:
            told = f"No clip could be sampled: {error}\n"
        if run.first:
            print(told, end="")
