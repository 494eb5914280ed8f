"""Optimizers, their learning-rate schedules, and the learners that own them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import OptimizerConfig
from ..errors import ConfigError

_PARTS = "8 bit parts"


class Learner:
    """The trained parameters of one network with their optimizers: the student, or a discriminator.

    ``settings``: where a configuration has the optimizer's settings.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig, settings: str = "optimizer"):
        self.config, self.settings = config, settings
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(self.parameters, config)

    def finite(self, iteration: int, loss: float) -> float:
        """Cut the gathered gradients to the norm of the configuration. Returns their norm before.

        Raises FloatingPointError where it is not finite.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"The gradient at iteration {iteration} is not finite (loss {loss}). Lower "
                f"{self.settings}.lr or {self.settings}.grad_clip and train the stage anew with --restart."
            )
        return norm

    def step(self, iteration: int, iterations: int) -> None:
        """One optimizer step along the gathered gradients, which are forgotten."""
        rate = learning_rate(self.config, iteration, iterations)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # as torchao has it, for compiled steps
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What a resume needs: the weights and the optimizers' moments."""
        return {
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "optimizers": [_taken_apart(optimizer.state_dict()) for optimizer in self.optimizers],
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        for name, p in self.parameters.items():
            p.copy_(state["weights"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(_put_together(saved))


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


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    settings: Any = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.name != "adamw8bit":
        return torch.optim.AdamW(parameters, fused=config.fused, **settings)
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("optimizer.name='adamw8bit' needs torchao: pip install torchao, or use adamw.") from None
    return AdamW8bit(parameters, **settings)


def _taken_apart(state: Any) -> Any:
    """A state in which the averages of 8 bits are the plain tensors that they are made of."""
    if hasattr(state, "codes"):
        parts = {name: getattr(state, name) for name in ("codes", "scale", "qmap")}
        return {_PARTS: parts, "signed": state.signed}
    if isinstance(state, dict):
        return {key: _taken_apart(value) for key, value in state.items()}
    return state


def _put_together(state: Any) -> Any:
    """The inverse of ``_taken_apart``."""
    if not isinstance(state, dict):
        return state
    if _PARTS not in state:
        return {key: _put_together(value) for key, value in state.items()}
    from torchao.optim.subclass_8bit import OptimState8bit  # pyright: ignore[reportMissingImports]

    return OptimState8bit(**state[_PARTS], signed=state["signed"], dtype=torch.float32)


def learning_rate(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """The learning rate of an iteration counted from 0."""
    warm = min(1.0, (iteration + 1) / (config.warmup + 1))
    decay = 0.5 * (1 + math.cos(math.pi * iteration / iterations)) if config.schedule == "cosine" else 1.0
    return config.lr * warm * decay
