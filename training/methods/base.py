"""What every training method shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dcm_core.process import process_of
from dcm_core.sampling import VelocityModel, euler, guided

from ..backbones.base import Backbone
from ..config import Config, MethodOptions, StageConfig
from ..data.base import Data
from ..data.batch import Batch, Conditions
from ..networks.average import MovingAverage, exchanged
from ..networks.network import Network, Role
from ..networks.roles import Player
from ..run.draws import Draws
from ..run.optim import Learner
from ..run.parallel import placed
from ..run.record import Record, record
from ..run.world import World

LossMap = dict[str, Tensor]
AS_BACKBONE = "Put it into ComfyUI/models/diffusion_models and open it with DCM Load Backbone."
AS_EXPERT = "Put it into ComfyUI/models/dcm and open it with DCM Load Expert."


@dataclass(frozen=True)
class Setup:
    """What every method is built from. ``config`` has the stage selected that is to be trained."""

    config: Config
    backbone: Backbone
    data: Data
    world: World

    @property
    def stage(self) -> StageConfig:
        """The selected stage's settings."""
        return self.config.selected()

    def placed(self, network: Network) -> Network:
        """A network, with its adapters, where it is trained; a copy of it has to be made before."""
        return placed(network, self.world, self.config.compile)


class Method(ABC):
    """One training objective over a backbone.

    ``build`` makes the networks of the method's roles (student, teacher, target, discriminator) and hands them to the
    constructor. ``learners`` names those that are trained, ``turns`` computes their losses. ``averages`` are moving
    averages of the student's weights, updated after every iteration.
    """

    Options: ClassVar[type[MethodOptions]]  # the model of the method's own options
    usage: ClassVar[str] = ""  # where the exported file goes, in a sentence

    def __init__(self, setup: Setup, options: Any, student: Player):
        """``student``: what to train, with requires_grad set on that and on nothing else of its network."""
        self.config, self.stage, self.options = setup.config, setup.stage, options
        self.settings = f"stages.{self.config.stage}"
        self.backbone, self.data, self.world = setup.backbone, setup.data, setup.world
        self.device = self.world.device
        self.schedule = setup.config.expert_schedule()
        self.process = process_of(self.schedule.grid)
        self.student = student
        for network in self.networks:
            setup.placed(network)
        transformer, optimizer = student.network.transformer, f"{self.settings}.optimizer"
        self.learners = {"student": Learner(transformer, self.stage.optimizer, self.world, optimizer)}
        self.averages: dict[str, MovingAverage] = {}
        if self.stage.ema_decay is not None:
            self.averages["student"] = MovingAverage(self.trainable, self.stage.ema_decay, warm_up=True)

    @classmethod
    @abstractmethod
    def build(cls, setup: Setup, options: Any) -> Method:
        """The method with its networks. Raises ConfigError where they cannot be built."""

    def trained_with(self) -> Record:
        """Every setting that the weights depend on, by its full name."""
        return record(self.config, self.options, {}, {})

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained of the student, by its transformer's names."""
        return self.learners["student"].parameters

    @property
    def networks(self) -> list[Network]:
        """Every network over the backbone that there is, once."""
        return [self.student.network]

    @abstractmethod
    def turns(self, batch: Batch, draws: Draws) -> Iterator[tuple[str, LossMap]]:
        """Yields (learner, its loss map) in the order of training; the sum of a map is minimised.

        A learner's step is done before the next turn is computed.
        """

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration: a batch, and a step of every learner. Returns losses and gradient norms as numbers."""
        draws = self.draws(iteration)
        batch = self.data.batch(draws).to(self.device)
        metrics: dict[str, float] = {}
        stepped: list[str] = []
        for name, losses in self.turns(batch, draws):
            loss = reduce(torch.add, losses.values())
            learner = self.learners[name]
            learner.backward(loss)
            try:
                norm = learner.step(iteration, self.stage.iterations)
            except FloatingPointError as error:
                took = [f"the {done} took its step of this iteration before" for done in stepped]
                kept = "The last checkpoint is sound" + "".join(f"; {each}" for each in took)
                raise FloatingPointError(f"{name}: {error} {kept}.") from None
            stepped.append(name)
            metrics |= {each: float(value.detach()) for each, value in losses.items()}
            metrics["grad_norm" if name == "student" else f"grad_norm_{name}"] = norm
        for average in self.averages.values():
            average.update(iteration)
        return self.world.mean(metrics)

    def draws(self, iteration: int) -> Draws:
        """All that is random in an iteration, for this process's rows of its batch."""
        count = self.data.batch_size
        return Draws(self.config.seed, iteration, count, self.world.rows(count))

    def averaged(self) -> AbstractContextManager[None]:
        """Inside this context the student has its averaged weights, where an average is kept."""
        average = self.averages.get("student")
        return nullcontext() if average is None else exchanged(self.trainable, average.values)

    @abstractmethod
    def sample(self, noise: Tensor, conditions: Conditions, steps: int) -> Tensor:
        """Latents [B, C, T, H, W] from noise of that shape, the way the result of this stage is meant to be used."""

    def model(self, role: Role, conditions: Conditions) -> VelocityModel:
        """A network with what it is told, as a function of x and sigma."""
        return lambda x, sigma: role(x, self.process.timestep(sigma), conditions)[0]

    def guided(self, role: Role, conditions: Conditions, scale: float) -> VelocityModel:
        """The same with classifier-free guidance; scale 1 is none."""
        unconditional = self.data.unconditional(conditions)
        return guided(lambda x, sigma, told: self.model(role, told)(x, sigma), conditions, unconditional, scale)

    def followed(self, model: VelocityModel, x: Tensor, sigmas: Tensor | Sequence[float]) -> Tensor:
        """``x`` taken from ``sigmas[0]`` to ``sigmas[-1]``, one network call a level."""
        return euler(model, x, sigmas, process=self.process)

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write what was trained as a safetensors file for ComfyUI: all processes gather it, the first one writes."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a resume needs, as they live: what is written into them is restored."""
        parts = {f"learners/{name}": learner.tensors() for name, learner in self.learners.items()}
        parts |= {f"averages/{name}": average.tensors() for name, average in self.averages.items()}
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def state(self) -> dict[str, Any]:
        """Everything else that a resume needs."""
        return {name: learner.state() for name, learner in self.learners.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned. Raises KeyError for another method's state."""
        for name, learner in self.learners.items():
            learner.load(state[name])
