"""What every training method shares."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcm_core.sampling import VelocityModel, guided

from ..backbones.base import Backbone
from ..checkpoint import random_generator
from ..config import Config, StageConfig
from ..data import Data
from ..data.batch import Batch
from ..optim import Learner

LossMap = dict[str, Tensor]
_STREAM = 0xA5  # keeps a method's noise apart from the data's draws of the same iteration


class Method(ABC):
    """One training objective over a backbone.

    A subclass builds its roles (student, teacher, target, discriminator), names in `learners` those that are trained,
    and computes their losses. State that must survive a resume is what `state` returns.
    """

    def __init__(
        self, config: Config, stage: StageConfig, backbone: Backbone, data: Data, device: torch.device
    ):
        self.config, self.stage, self.backbone, self.data, self.device = config, stage, backbone, data, device
        self.student = self.build_student().to(device)
        self.learners = {"student": Learner(self.student, stage.optimizer)}

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained of the student, by name."""
        return self.learners["student"].parameters

    @abstractmethod
    def build_student(self) -> nn.Module:
        """The network to train, with requires_grad set on what is trained."""

    def compile(self, backend: str) -> None:
        """Let torch.compile speed the networks up; their names and weights stay what they are."""
        self.student.compile(backend=backend)

    @abstractmethod
    def turns(
        self, batch: Batch, generator: torch.Generator, iteration: int
    ) -> Iterator[tuple[str, LossMap]]:
        """Yields (learner, its loss map) in the order of training; the sum of a map is minimised.

        A learner's step is done before the next turn is computed.
        """

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration: a batch, and a step of every learner. Returns losses and gradient norms as numbers."""
        generator = random_generator(self.config.seed ^ _STREAM << 16, iteration, self.device)
        batch = self.data.batch(iteration).to(self.device)
        metrics: dict[str, float] = {}
        for name, losses in self.turns(batch, generator, iteration):
            norm = self.learners[name].minimise(sum(losses.values()), iteration, self.stage.iterations)
            metrics |= {loss: float(value.detach()) for loss, value in losses.items()}
            metrics["grad_norm" if name == "student" else f"grad_norm_{name}"] = norm
        return metrics

    @abstractmethod
    def sample(self, noise: Tensor, text: Tensor, steps: int) -> Tensor:
        """Latents [B, C, T, H, W] from noise of that shape, the way the result of this stage is meant to be used."""

    def network(self, model: nn.Module, text: Tensor) -> VelocityModel:
        """A network with its text, as a function of x and sigma."""
        return lambda x, sigma: self.backbone.velocity(model, x, sigma, text)

    def guided(self, model: nn.Module, text: Tensor, scale: float) -> VelocityModel:
        """The same with classifier-free guidance; scale 1 is none."""
        unconditional = self.data.text([""] * len(text)).to(text)
        return guided(partial(self.backbone.velocity, model), text, unconditional, scale)

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write what was trained as a safetensors file for ComfyUI."""

    def state(self) -> dict[str, Any]:
        """Everything a resume needs."""
        weights = {
            name: {k: p.data for k, p in each.parameters.items()} for name, each in self.learners.items()
        }
        return weights | {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers()]}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, learner in self.learners.items():
            for key, p in learner.parameters.items():
                p.data.copy_(state[name][key])
        for optimizer, saved in zip(self._optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for learner in self.learners.values() for optimizer in learner.optimizers]
