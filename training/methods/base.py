"""What every training method shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from dcm_core.process import process_of
from dcm_core.sampling import VelocityModel, euler, guided

from ..backbones.base import Backbone
from ..config import Config, MethodOptions, StageConfig
from ..data.base import Data
from ..data.batch import Batch, Conditions
from ..networks.average import MovingAverage, exchanged
from ..networks.blocks import place, prepare
from ..networks.network import Network, Role
from ..networks.roles import Player
from ..run.draws import Draws, parts
from ..run.optim import Learner
from ..run.parallel import split
from ..run.record import Record, record
from ..run.world import World

LossMap = dict[str, Tensor]
Sampler = Callable[[Tensor, Conditions], Tensor]
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

    def placed(self, network: Network) -> None:
        """Put a network with its adapters where it is trained, and let it compute as the configuration says.

        Copies of it have to be made before: a network that is split among processes cannot be copied.
        """
        if self.world.mesh is None:
            place(network, self.world.device, self.config.compute)
        prepare(network, self.config.compute, self.config.compile, self.world.device)
        split(network, self.world)


class Calls(NamedTuple):
    """Network calls of an iteration, for each clip: without gradient, with that of what is trained, and with that of
    the latents alone. What a run is estimated by."""

    plain: int = 0
    trained: int = 1
    through: int = 0


class Method(ABC):
    """One training objective over a backbone.

    ``build`` makes the networks of the method's roles (student, teacher, target, discriminator) and hands them to the
    constructor. ``learners`` names those that are trained, ``turns`` computes their losses. ``averages`` are moving
    averages of the student's weights, updated after every iteration. ``done``: how many iterations the weights have
    behind them.
    """

    Options: ClassVar[type[MethodOptions]]  # the model of the method's own options
    usage: str = ""  # where the exported file goes, in a sentence
    trained_steps: int | None = None  # of the run whose noise levels are trained for, where there are no others

    def __init__(self, setup: Setup, options: Any, student: Player):
        """``student``: what to train, with requires_grad set on that and on nothing else of its network."""
        self.config, self.stage, self.options = setup.config, setup.stage, options
        self.settings = f"stages.{self.config.stage}"
        self.backbone, self.data, self.world = setup.backbone, setup.data, setup.world
        self.device = self.world.device
        self.schedule = setup.config.expert_schedule()
        self.process = process_of(self.schedule.grid)
        self.student = student
        self.done = 0
        for network in self.networks:
            setup.placed(network)
        transformer, optimizer = student.network.transformer, f"{self.settings}.optimizer"
        self.learners = {"student": Learner(transformer, self.stage.optimizer, self.world, optimizer)}
        self.averages: dict[str, MovingAverage] = {}
        if self.stage.ema_decay is not None:
            self.averages["student"] = MovingAverage(self.trainable, self.stage.ema_decay, warm_up=True)

    @classmethod
    def calls(cls, options: Any, config: Config) -> Calls:
        """Which an iteration takes with these options of the selected stage."""
        return Calls()

    @classmethod
    @abstractmethod
    def build(cls, setup: Setup, options: Any) -> Method:
        """The method with its networks. Raises ConfigError where they cannot be built."""

    def trained_with(self) -> Record:
        """Every setting that the weights depend on, by its full name."""
        return record(self.config, self.options, {}, {})

    @property
    def as_trained(self) -> Config:
        """The configuration with as many iterations as were trained, for an exported file: a stage may end early."""
        stage = self.stage.model_copy(update={"iterations": self.done})
        return self.config.model_copy(update={"stages": {**self.config.stages, self.config.stage: stage}})

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
        """Yields (learner, its loss map); the sum of a map, a mean over the samples, is minimised.

        The backward pass of a turn is done before the next one is computed, and no weights change before all are.
        """

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration: a batch, and a step of every learner. Returns losses and gradient norms as numbers.

        Raises FloatingPointError, with all weights as they were, where a gradient is not finite.
        """
        draws = self.draws(iteration)
        losses = self.gradients(self.data.batch(draws), draws)
        metrics = {name: value for own in losses.values() for name, value in own.items()}
        for name, own in losses.items():
            try:
                norm = self.learners[name].finite(iteration, sum(own.values()))
            except FloatingPointError as error:
                raise FloatingPointError(f"{name}: {error} The weights and the last checkpoint are sound.") from None
            metrics["grad_norm" if name == "student" else f"grad_norm_{name}"] = norm
        for name in losses:
            self.learners[name].step(iteration, self.stage.iterations)
        for average in self.averages.values():
            average.update(iteration)
        self.done = iteration + 1
        return self.world.mean(metrics)

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, dict[str, float]]:
        """Gather the gradients of an iteration, micro batch by micro batch. Returns each learner's losses."""
        losses: dict[str, dict[str, float]] = {}
        for part in draws.split(self.config.compute.micro_batch):
            share = len(part.rows) / len(draws.rows)
            first = part.rows.start - draws.rows.start
            clips = batch.rows(slice(first, first + len(part.rows))).to(self.device)
            for name, own in self.turns(clips, part):
                (share * reduce(torch.add, own.values())).backward()
                seen = losses.setdefault(name, {})
                for each, value in own.items():
                    seen[each] = seen.get(each, 0.0) + share * float(value.detach())
        return losses

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

    def sampled(self, sample: Sampler, noise: Tensor, conditions: Conditions) -> Tensor:
        """What a function makes of noise [B, C, T, H, W] and conditions, ``compute.micro_batch`` clips at a time."""
        shares = parts(range(len(noise)), self.config.compute.micro_batch)
        rows = [slice(share.start, share.stop) for share in shares]
        return torch.cat([sample(noise[each], conditions.rows(each)) for each in rows])

    def model(self, role: Role, conditions: Conditions) -> VelocityModel:
        """A network with what it is told, as a function of x and sigma."""
        return lambda x, sigma: role(x, self.process.timestep(sigma), conditions)[0]

    def guided(self, role: Role, conditions: Conditions, scale: float) -> VelocityModel:
        """The same with classifier-free guidance; scale 1 is none."""
        unconditional = self.data.unconditional(conditions)
        if not self.config.compute.batched_guidance or scale == 1:
            return guided(lambda x, sigma, told: self.model(role, told)(x, sigma), conditions, unconditional, scale)
        both = self.model(role, conditions.joined(unconditional))

        def at_once(x: Tensor, sigma: Tensor) -> Tensor:
            conditional, other = both(torch.cat([x, x]), torch.cat([sigma, sigma])).chunk(2)
            return other + scale * (conditional - other)

        return at_once

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
