"""The measurements of train.py and train_gpu.py, each to be made in a process of its own."""

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
from safetensors.torch import save_file  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from training import registry, trainer  # noqa: E402
from training.backbones import hunyuan_video, shapes, wan  # noqa: E402, F401 - with all that they import
from training.config import BackboneConfig, Config, build  # noqa: E402
from training.data.batch import Batch, Conditions  # noqa: E402
from training.estimate.stage import Need, need  # noqa: E402
from training.methods import detail, semantic, trajectory  # noqa: E402, F401
from training.methods.base import Method  # noqa: E402
from training.networks.exchange import save_backbone  # noqa: E402
from training.run.draws import Draws  # noqa: E402

ITERATIONS = 8


def teacher(values: dict) -> None:
    """Random weights, those of a seed."""
    config = build(Config, values)
    backbone = registry.build_backbone(config.backbone)
    file = Path(config.output).parent / "teacher.safetensors"
    save_backbone(file, backbone.comfy_state(backbone.build(0)), torch.float32, {})


def measure(what: str, values: dict) -> dict:
    return {"memory": memory, "time": parts}[what](build(Config, values))


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


def about_gpu() -> dict | None:
    if not torch.cuda.is_available():
        return None
    return {"card": torch.cuda.get_device_name(), "torch": torch.__version__}


def random_backbone(values: dict, file: Path) -> None:
    """Random weights of any size, in 16 bits and in seconds."""
    backbone = registry.build_backbone(build(BackboneConfig, values))
    with torch.device("meta"):
        state = backbone.keymap.state_to_comfy(backbone.build(0).transformer.state_dict())
    save_file({name: random_weight(tensor) for name, tensor in state.items()}, file)


def random_weight(like: torch.Tensor) -> torch.Tensor:
    """Matrices keep the size of what goes through them; scales are 1 and biases too, which harms nothing here."""
    if like.ndim == 1:
        return torch.ones(like.shape, dtype=torch.bfloat16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (torch.randn(like.shape, dtype=torch.bfloat16, device=device) * like[0].numel() ** -0.5).cpu()


def on_gpu(values: dict, shape: tuple[int, int, int, int]) -> dict:
    """Seconds of an iteration on one clip of latents of this shape, its operations and its peak memory."""
    config = build(Config, values)
    data: Any = Noise(shape, config.backbone.name)
    trainer.build_training_data = lambda config: data
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
    said = estimate(config, method)
    return {"iteration": median(seconds[1:]), "peak": peak, "flop": said.flop, "estimate": said.memory}


class Noise:
    """Clips that are noise, all with one text of 512 tokens, or HunyuanVideo's 256."""

    batch_size, made_for, content, prompts = 1, None, "", ()
    told_of_image: frozenset[str] = frozenset()

    def __init__(self, latent_shape: tuple[int, int, int, int], backbone: str):
        self.latent_shape, self.pooled = latent_shape, backbone == "hunyuan_video"

    def batch(self, draws: Draws) -> Batch:
        count = len(draws.rows)
        return Batch(draws.noise("clips", torch.empty(count, *self.latent_shape)), self.conditions([""] * count))

    def conditions(self, captions: list[str]) -> Conditions:
        given, count = torch.Generator().manual_seed(0), len(captions)
        text = torch.randn(count, 256 if self.pooled else 512, 4096, generator=given)
        if not self.pooled:
            return Conditions(text)
        mask = torch.ones(text.shape[:2], dtype=torch.bool)
        return Conditions(text, mask, torch.randn(count, 768, generator=given))

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
