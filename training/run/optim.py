"""Optimizers, their learning-rate schedules, and the learners that own them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..config import OptimizerConfig
from ..errors import ConfigError
from .parallel import share_gradients, whole
from .world import World


class Learner:
    """The trained parameters of one network with their optimizers: the student, or a discriminator.

    ``settings``: where a configuration has the optimizer's settings. The network is where it is trained, and split
    among the processes if it is to be.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig, world: World, settings: str = "optimizer"):
        self.config, self.configured = config, config  # an alarm may slow the former down
        self.world, self.settings = world, settings
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(self.parameters, config)
        for optimizer in self.optimizers:
            _remember(optimizer)

    def finite(self, iteration: int, loss: float) -> float:
        """Cut the gathered gradients to the norm of the configuration. Returns their norm before.

        Raises FloatingPointError where that of any process is not finite: on all of them, so that none waits for
        another.
        """
        share_gradients(self.parameters.values())
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)))
        if self.world.any(not math.isfinite(norm)):
            raise FloatingPointError(
                f"The gradient at iteration {iteration} is not finite (loss {loss}). Lower "
                f"{self.settings}.lr or {self.settings}.grad_clip and train the stage anew with --restart."
            )
        return norm

    def step(self, iteration: int, iterations: int) -> None:
        """One optimizer step along the gathered gradients, which are forgotten."""
        rate = learning_rate(self.config, iteration, iterations)
        for optimizer in self.optimizers:
            _set_rates(optimizer, [rate] * len(optimizer.param_groups))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def forget_gradients(self) -> None:
        """Drop what was collected for a step that is not taken."""
        for p in self.parameters.values():
            p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The weights and the optimizers' moments, as they live: what is written into them is restored."""
        moments = {f"{key}/{name}": value for name, key, value in self._optimizer_state() if value.ndim}
        return {f"weights/{name}": p.detach() for name, p in self.parameters.items()} | moments

    def state(self) -> dict[str, float]:
        """What a resume needs beside the tensors: how many steps an optimizer has behind it, weight by weight."""
        return {f"{key}/{name}": value.item() for name, key, value in self._optimizer_state() if not value.ndim}

    def load(self, state: Mapping[str, float]) -> None:
        """Restore what ``state`` returned."""
        for name, key, value in self._optimizer_state():
            if not value.ndim:
                value.fill_(state[f"{key}/{name}"])

    def _optimizer_state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(name of the weight, name of the value, value) of all that the optimizers remember."""
        for name, p in self.parameters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(p, {}).items():
                    for part, tensor in _plain(value).items():
                        yield name, f"{key}{part}", tensor


def build_optimizers(named: Mapping[str, nn.Parameter], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a set of named parameters. Raises ConfigError where what they need is not installed."""
    if config.name != "muon":
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


def _remember(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer have its moments before its first step, so that a checkpoint finds where to restore them."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    _set_rates(optimizer, [0.0] * len(rates))
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    _set_rates(optimizer, rates)
    for state in optimizer.state.values():
        for value in state.values():
            if not is_traceable_wrapper_subclass(value):  # averages of 8 bits are those of zero gradients already
                value.zero_()


def _set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):  # as torchao has it, for compiled steps
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _plain(value: Any) -> dict[str, Tensor]:
    """The plain tensors that a value is made of, as they live: several for an average of 8 bits."""
    if is_traceable_wrapper_subclass(value) and not isinstance(value, DTensor):
        return {f".{part}": getattr(value, part) for part in ("codes", "scale", "qmap")}
    return {"": value}


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    settings: Any = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.name != "adamw8bit":
        fused = all(p.is_cuda for p in parameters) if config.fused is None else config.fused
        return torch.optim.AdamW(parameters, fused=fused, **settings)
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("optimizer.name='adamw8bit' needs torchao: pip install torchao, or use adamw.") from None
    return AdamW8bit(parameters, **settings)


def learning_rate(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """The learning rate of an iteration counted from 0."""
    warm = min(1.0, (iteration + 1) / (config.warmup + 1))
    decay = 0.5 * (1 + math.cos(math.pi * iteration / iterations)) if config.schedule == "cosine" else 1.0
    return config.lr * warm * decay
