"""What all distillation methods share: a frozen teacher, a target network, consistency pairs."""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcm_core.sampling import VelocityModel
from dcm_core.schedule.experts import ExpertSchedule

from ..config import ConfigError, build
from ..data.batch import Batch
from ..noise import draw_indices, drawn_like, noised
from .base import Method
from .consistency import Jumps, consistency


@dataclass(kw_only=True)
class DistillationOptions:
    """guidance: scale of the teacher's classifier-free guidance, v_uncond + guidance * (v_cond - v_uncond); 1 is none.
    huber_c: where the pseudo-Huber loss turns from a parabola into the absolute value.
    per_interval: compare velocities instead of latents, so that the losses do not fade with the length of a span.
    target_ema: decay of an averaged target network; none means the student itself, without gradient.
    teacher: its weights in ComfyUI layout; none means backbone.weights, or else this run's teacher stage.
    """

    guidance: float = 6.0
    huber_c: float = 0.001
    per_interval: bool = False
    target_ema: float | None = None
    teacher: str | None = None


class Distillation(Method):
    """Roles: student (trained), teacher (frozen), target (the student, or its moving average)."""

    Options: type[DistillationOptions] = DistillationOptions

    def __init__(self, config, stage, backbone, data, device: torch.device):
        self.options = build(self.Options, stage.options, f"stages.{config.stage}.options")
        self.schedule: ExpertSchedule = config.expert_schedule()
        self.teacher_file = _teacher_file(
            self.options.teacher or config.backbone.weights, Path(config.output)
        )
        super().__init__(config, stage, backbone, data, device)
        self.teacher = backbone.load(self.teacher_file).to(device).requires_grad_(False)
        averaged = self.options.target_ema is not None
        self.target = copy.deepcopy(self.student).requires_grad_(False) if averaged else self.student

    def compile(self, backend: str) -> None:
        for network in {self.student, self.teacher, self.target}:
            network.compile(backend=backend)

    @abstractmethod
    def spans(self) -> list[range]:
        """The spans of grid indices that this method trains on, each with an end point of its own."""

    def pairs(self, batch: Batch, generator: torch.Generator) -> Jumps:
        """Consistency pairs at random noise levels of the spans."""
        spans, count = self.spans(), len(batch.latents)
        index = draw_indices(range(spans[0].start, spans[-1].stop), count, generator)
        start = index.clone()
        for span in spans:
            start[(index >= span.start) & (index < span.stop)] = span.start
        sigma = self.schedule.grid.sigma(index).to(batch.latents)
        return consistency(
            noised(batch.latents, drawn_like(batch.latents, generator), sigma),
            index,
            start,
            self.schedule.grid,
            student=self.network(self.student, batch.text),
            target=self.network(self.target, batch.text),
            teacher=self.guided_teacher(batch.text),
        )

    def guided_teacher(self, text: Tensor) -> VelocityModel:
        """The teacher with classifier-free guidance: what the student has to reproduce in one call."""
        return self.guided(self.teacher, text, self.options.guidance)

    def step(self, iteration: int) -> dict[str, float]:
        metrics = super().step(iteration)
        with torch.no_grad():
            for name, average in self._averages().items():
                average.lerp_(self.trainable[name], 1 - self.options.target_ema)
        return metrics

    def state(self) -> dict[str, Any]:
        return super().state() | {"target": {name: p.data for name, p in self._averages().items()}}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        for name, p in self._averages().items():
            p.data.copy_(state["target"][name])

    def _averages(self) -> dict[str, nn.Parameter]:
        """The target's averaged parameters; none where the target is the student itself."""
        if self.target is self.student:
            return {}
        everything = dict(self.target.named_parameters())
        return {name: everything[name] for name in self.trainable}


def _teacher_file(named: str | None, output: Path) -> Path:
    path = Path(named) if named else output / "teacher" / "teacher.safetensors"
    if not path.is_file():
        raise ConfigError(
            f"There is no teacher at {path}. Set backbone.weights to its file in ComfyUI layout, "
            "or run the teacher stage of this configuration first."
        )
    return path
