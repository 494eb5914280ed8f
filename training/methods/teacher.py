"""Flow matching: trains the teacher from nothing. Only the Shapes world needs it; real teachers are downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from dcm_core.sampling import euler
from dcm_core.schedule.curves import shift_sigma

from ..config import MethodOptions, Positive, Weight
from ..data.batch import Batch
from ..draws import drawn_like, stratified
from ..export import export_backbone
from ..noise import noised
from .base import AS_BACKBONE, LossMap, Method, Setup


class TeacherOptions(MethodOptions):
    """A teacher from nothing."""

    shift: Positive = Field(
        default=3.0, description="Of the training's noise levels, whose unshifted times are uniform in 0..1."
    )
    guidance: Weight = Field(
        default=3.0, description="Scale of classifier-free guidance in validation clips; training knows none."
    )


class Teacher(Method):
    """Minimises ``|v(x_sigma, sigma, text) - (noise - latents)|^2``."""

    Options = TeacherOptions
    options: TeacherOptions
    usage = AS_BACKBONE

    @classmethod
    def build(cls, setup: Setup, options: TeacherOptions) -> Teacher:
        return cls(setup, options, student=setup.backbone.build(setup.config.seed))

    def turns(self, batch: Batch, generator: torch.Generator, iteration: int) -> Iterator[tuple[str, LossMap]]:
        noise = drawn_like(batch.latents, generator)
        u = stratified(torch.arange(len(noise), device=self.device), generator)
        sigma = shift_sigma(u, self.options.shift)
        velocity = self.backbone.velocity(self.student, noised(batch.latents, noise, sigma), sigma, batch.text)
        yield "student", {"flow": (velocity - (noise - batch.latents)).square().mean()}

    def sample(self, noise: Tensor, text: Tensor, steps: int) -> Tensor:
        """Every point of the grid, guided."""
        grid = self.config.expert_schedule().grid
        sigmas = [*grid.sigmas.flip(0).tolist(), 0.0]
        return euler(self.guided(self.student, text, self.options.guidance), noise, sigmas)

    def export(self, path: Path) -> None:
        export_backbone(path, self.config, self.backbone.comfy_state(self.student))


METHOD = Teacher
