"""Optimizers, their learning-rate schedules, and the learners that own them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import OptimizerConfig
from ..errors import ConfigError


class Learner:
    """The trained parameters of one network with their optimizers: the student, or a discriminator.

    ``settings``: where a configuration has the optimizer's settings.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig, settings: str = "optimizer"):
        self.config, self.configured, self.settings = config, config, settings  # an alarm may slow the former down
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(self.parameters, config)

    def minimise(self, loss: Tensor, iteration: int, iterations: int) -> float:
        """One optimizer step. Returns the gradient norm before clipping.

        Raises FloatingPointError, with this learner's weights as they were, where the gradient is not finite.
        """
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"The gradient at iteration {iteration} is not finite (loss {float(loss.detach())}). Lower "
                f"{self.settings}.lr or {self.settings}.grad_clip and train the stage anew with --restart."
            )
        rate = learning_rate(self.config, iteration, iterations)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def forget_gradients(self) -> None:
        """Drop what was collected for a step that is not taken."""
        for p in self.parameters.values():
            p.grad = None

    def state(self) -> dict[str, Any]:
        """What a resume needs: the weights and the optimizers' moments."""
        return {
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        for name, p in self.parameters.items():
            p.copy_(state["weights"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def build_optimizers(named: Mapping[str, nn.Parameter], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a set of named parameters. Raises ConfigError where this PyTorch has no Muon."""
    if config.name == "adamw":
        return [_adamw(list(named.values()), config)]
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"optimizer.name='muon' needs PyTorch 2.9 or newer, this is {torch.__version__}; "
            "use adamw, with a smaller learning rate."
        )
    matrices = {name: p for name, p in named.items() if p.ndim == 2 and "blocks." in name}
    others = [p for name, p in named.items() if name not in matrices]
    muon = torch.optim.Muon(
        list(matrices.values()),
        lr=config.lr,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # one learning rate then suits both optimizers
    )
    return [muon, _adamw(others, config)]


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def learning_rate(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """The learning rate of an iteration counted from 0."""
    warm = min(1.0, (iteration + 1) / (config.warmup + 1))
    decay = 0.5 * (1 + math.cos(math.pi * iteration / iterations)) if config.schedule == "cosine" else 1.0
    return config.lr * warm * decay
