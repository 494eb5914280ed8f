"""Flow matching: trains the teacher from nothing. Only the Shapes world needs it; real teachers are downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from torch import Tensor

from dcm_core.schedule.curves import shift_sigma

from ..config import MethodOptions, Positive, Weight
from ..data.batch import Batch, Conditions
from ..export import export_backbone
from ..networks.roles import Player
from ..run.draws import Draws
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
        return cls(setup, options, student=Player(setup.backbone.build(setup.config.seed)))

    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        noise = draws.noise("noise", batch.latents)
        sigma = shift_sigma(draws.uniform("level"), self.options.shift).to(self.device)
        x = self.process.noised(batch.latents, noise, sigma)
        velocity = self.model(self.student, batch.conditions)(x, sigma)
        yield "student", {"flow": (velocity - (noise - batch.latents)).square().mean()}

    def sample(self, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        """Every point of the grid, guided."""
        sigmas = [*self.schedule.grid.sigmas.flip(0).tolist(), 0.0]
        return self.followed(self.guided(self.student, conditions, self.options.guidance), noise, sigmas)

    def export(self, path: Path) -> None:
        state = self.backbone.comfy_state(self.student.network)
        if self.world.first:
            export_backbone(path, self.as_trained, state)


METHOD = Teacher
