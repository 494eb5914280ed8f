"""The measurements of benchmarks/train.py, each to be made in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from training import registry, trainer  # noqa: E402
from training.backbones import shapes, wan  # noqa: E402, F401 - with all that they import
from training.config import Config, build  # noqa: E402
from training.data.batch import Batch, Conditions  # noqa: E402
from training.estimate.stage import Need, need  # noqa: E402
from training.methods import detail, semantic, trajectory  # noqa: E402, F401
from training.methods.base import Method  # noqa: E402
from training.networks.exchange import save_backbone  # noqa: E402
from training.run.draws import Draws  # noqa: E402

ITERATIONS = 8


def has_gpu() -> bool:
    return torch.cuda.is_available()


def teacher(what: str, values: dict) -> None:
    """Random weights."""
    config = build(Config, values)
    backbone = registry.build_backbone(config.backbone)
    file = Path(config.output).parent / "teacher.safetensors"
    save_backbone(file, backbone.comfy_state(backbone.build(0)), torch.float32, {})


def measure(what: str, values: dict) -> dict:
    if what == "gpu":
        data: Any = Noise()
        trainer.build_training_data = lambda config: data
    return {"memory": memory, "time": parts, "gpu": on_gpu}[what](build(Config, values))


def memory(config: Config) -> dict:
    """The most that all tensors take at once in an iteration, and what a dry run says."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        method = trainer.build_trainer(config).method
        built = time.time_ns()
        for iteration in range(2):
            method.step(iteration)
    assert profiled.profiler is not None
    events = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        peak = max(peak, held if event.start_ns() > built else 0)
    weights = sum(p.numel() * p.element_size() for network in method.networks for p in network.parameters())
    moments = sum(tensor.nbytes for learner in method.learners.values() for tensor in learner.tensors().values())
    moments -= sum(p.nbytes for learner in method.learners.values() for p in learner.parameters.values())
    export(method, config)
    return {"peak": peak, "weights": weights, "moments": moments, "estimate": estimate(config, method).memory}


def parts(config: Config) -> dict:
    """Medians of the processor time of an iteration and of what is not its own in it."""
    method = trainer.build_trainer(config).method
    spent = dict.fromkeys(("calls", "optimizer", "data"), 0.0)
    within: list[str] = []

    def timed(name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            if within:  # a part of a part: a forward pass within a backward pass
                return function(*arguments, **named)
            within.append(name)
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += time.process_time() - start
                within.pop()

        return call

    networks: list[Any] = [*method.networks, *([method.discriminator] if hasattr(method, "discriminator") else [])]
    for network in networks:
        network.forward = timed("calls", network.forward)
    torch.Tensor.backward = timed("calls", torch.Tensor.backward)
    for learner in method.learners.values():
        learner.finite, learner.step = timed("optimizer", learner.finite), timed("optimizer", learner.step)
    method.data.batch = timed("data", method.data.batch)
    rows = []
    for iteration in range(ITERATIONS + 1):
        spent.update(dict.fromkeys(spent, 0.0))
        start = time.process_time()
        method.step(iteration)
        rows.append({"iteration": time.process_time() - start, **spent})
    rows = rows[1:]  # the first one asks for memory
    export(method, config)
    ratios = [row["iteration"] / (row["calls"] + row["optimizer"] + row["data"]) for row in rows]
    return {name: median(row[name] for row in rows) for name in rows[0]} | {"ratio": median(ratios), "rows": rows}


def on_gpu(config: Config) -> dict:
    """Seconds of an iteration, its operations and its peak memory."""
    method = trainer.build_trainer(config).method
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for iteration in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        method.step(iteration)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated()
    export(method, config)
    found = {"iteration": median(seconds[1:]), "peak": peak, "card": torch.cuda.get_device_name()}
    said = estimate(config, method)
    return found | {"flop": said.flop, "estimate": said.memory}


class Noise:
    """Clips of 480x832x81 that are noise, all with one text."""

    latent_shape, batch_size, made_for, content, prompts = (16, 21, 60, 104), 1, None, "", ()

    def batch(self, draws: Draws) -> Batch:
        count = len(draws.rows)
        return Batch(draws.noise("clips", torch.empty(count, *self.latent_shape)), self.conditions([""] * count))

    def conditions(self, captions: list[str]) -> Conditions:
        return Conditions(torch.randn(len(captions), 512, 4096, generator=torch.Generator().manual_seed(0)))

    def unconditional(self, conditions: Conditions) -> Conditions:
        return replace(conditions, text=torch.zeros_like(conditions.text))


def estimate(config: Config, method: Method) -> Need:
    """What a dry run says of these clips."""
    return need(config, type(method), method.options, registry.build_backbone, None, method.data.latent_shape)


def export(method: Method, config: Config) -> None:
    """The file that a detail stage builds on."""
    file = Path(config.output, str(config.stage), f"{config.stage}.safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    method.export(file)
