"""Flow matching: trains the teacher from nothing. Only the Shapes world needs it; real teachers are downloaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dcm_core.sampling import euler

from ..config import build
from ..data.batch import Batch
from ..export import export_backbone
from ..noise import drawn_like, noised
from .base import LossMap, Method


@dataclass(kw_only=True)
class TeacherOptions:
    """shift: training noise levels are sigma = shift * u / (1 + (shift - 1) * u) with u uniform in 0..1.
    guidance: scale of classifier-free guidance in validation clips; training knows none.
    """

    shift: float = 3.0
    guidance: float = 3.0


class Teacher(Method):
    """Minimises |v(x_sigma, sigma, text) - (noise - latents)|^2."""

    def build_student(self) -> nn.Module:
        self.options = build(TeacherOptions, self.stage.options, f"stages.{self.config.stage}.options")
        return self.backbone.build(self.config.seed)

    def turns(
        self, batch: Batch, generator: torch.Generator, iteration: int
    ) -> Iterator[tuple[str, LossMap]]:
        noise = drawn_like(batch.latents, generator)
        # one stratum per sample: the same distribution with less variance between batches
        count = len(noise)
        u = torch.arange(count, device=self.device) + torch.rand(
            count, generator=generator, device=self.device
        )
        u = u / count
        sigma = self.options.shift * u / (1 + (self.options.shift - 1) * u)
        velocity = self.backbone.velocity(
            self.student, noised(batch.latents, noise, sigma), sigma, batch.text
        )
        yield "student", {"flow": (velocity - (noise - batch.latents)).square().mean()}

    def sample(self, noise: Tensor, text: Tensor, steps: int) -> Tensor:
        grid = self.config.expert_schedule().grid
        sigmas = [*grid.sigmas.flip(0).tolist(), 0.0]
        return euler(self.guided(self.student, text, self.options.guidance), noise, sigmas)

    def export(self, path: Path) -> None:
        export_backbone(path, self.config, self.backbone.comfy_state(self.student))
