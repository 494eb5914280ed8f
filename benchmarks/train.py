"""What an iteration of the trainer takes: memory by mode, what a dry run says of it, and time beside its network calls.

    python benchmarks/train.py

Memory: a Wan network on so few tokens that weights are a large share of full mode's peak; both experts, both modes, a
process each. Counted is what PyTorch's allocator has given out, the peak of two iterations; beside it stands what a dry
run says. (The process holds some 100 MB more: gaps that the C library keeps, and code that is imported on the way.)
Where weights are a share w of the peak and adapter mode leaves one of two copies away, its peak is
no less than 1 - w / 2 of full mode's; a semantic expert's gradients and moments go as well. A detail expert is an
adapter in both modes, with the same gradients, moments and activations: adapter mode leaves a copy of the backbone
away and holds the semantic expert beside it. So its third row has what adapter mode alone can have, a frozen
backbone in 8 bits, with the checkpoints that this needs.

Time: the networks of the Shapes world. An iteration's own work is all but its network calls, their backward passes, the
optimizers with the cutting of gradients, and the data; the ratio is taken within each iteration, in processor time of
one thread, and is the median of all.

On a GPU: train_gpu.py. Writes results/train.json and train.md.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import train_child

HERE = Path(__file__).resolve().parent
GOALS = {"adapter mode": 0.55, "dry run": 0.15, "time": 1.05}
MODES = ("full", "adapter")
NARROW = "adapter, 8 bits"
NARROWED = {"checkpointing": "full", "base": "fp8"}
STAGES = {"memory": ("semantic", "detail"), "time": ("semantic", "detail", "trajectory")}
WIDE = {"num_attention_heads": 6, "attention_head_dim": 96, "ffn_dim": 2304, "num_layers": 5}
CPU = {"device": "cpu", "compute": {"read_ahead": False}, "validation": {"steps": 4}}
SETTINGS = {
    "memory": CPU | {"backbone": {"name": "shapes", "architecture": WIDE}, "data": {"batch_size": 1}},
    "time": CPU | {"backbone": {"name": "shapes"}, "data": {"batch_size": 8}},
}
OPTIONS = {"semantic": {}, "detail": {"discriminator": {"width": 64}}, "trajectory": {"expert": "semantic", "steps": 4}}


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    context = get_context("forkserver")  # it imports the libraries once, and each measurement begins with them alone
    context.set_forkserver_preload(["train_child"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        write({what: measured(processes, what) for what in STAGES})


def measured(processes: ProcessPoolExecutor, what: str) -> list[dict]:
    """Both modes of the stages, each in a process of its own, over a teacher of random weights."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        given = values(Path(folder), SETTINGS[what], "semantic", "full")
        processes.submit(train_child.teacher, given).result()
        for stage in STAGES[what]:
            row: dict = {"stage": stage}
            for mode in modes(what):
                given = values(Path(folder), SETTINGS[what], stage, mode)
                row[mode] = processes.submit(train_child.measure, what, given).result()
            rows.append(row)
    return rows


def modes(what: str) -> tuple[str, ...]:
    return (*MODES, NARROW) if what == "memory" else MODES


def values(folder: Path, settings: dict, stage: str, mode: str) -> dict:
    """A configuration with one stage."""
    if mode == NARROW:
        settings = settings | {"compute": settings["compute"] | NARROWED}
    options = {
        "mode": mode.partition(",")[0],
        "rank": 16,
        "alpha": 32.0,
        "teacher": str(folder / "teacher.safetensors"),
    }
    if stage == "detail":
        options["semantic"] = str(folder / mode / "semantic" / "semantic.safetensors")
    return {
        **settings,
        "output": str(folder / mode),
        "stage": stage,
        "stages": {stage: {"method": stage, "iterations": 2, "options": {**OPTIONS[stage], **options}}},
    }


def write(rows: dict[str, list[dict]]) -> None:
    machine = f"torch {version('torch')}, CPU, one thread; {platform.machine()}, {os.cpu_count()} CPU cores"
    result = {"machine": machine, "settings": SETTINGS, "goals": GOALS, **rows}
    (HERE / "results" / "train.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [*memory_table(rows["memory"]), "", *time_table(rows["time"])]
    text = "\n".join([*lines, "", f"`python benchmarks/train.py`. {machine}."])
    (HERE / "results" / "train.md").write_text(text + "\n")
    print(text)


def memory_table(rows: list[dict]) -> Iterator[str]:
    yield (
        "| stage | mode | weights | moments | gradients, activations | peak | of full mode's | goal | "
        "the dry run says | of the peak | goal |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        for mode in modes("memory"):
            found, full = row[mode], row["full"]["peak"]
            share = " | " if mode == "full" else f"{found['peak'] / full:.0%} | <= {GOALS['adapter mode']:.0%}"
            made = found["peak"] - found["weights"] - found["moments"]
            parts = found["weights"], found["moments"], made, found["peak"], found["estimate"]
            *held, said = (f"{part / 1e6:.0f} MB" for part in parts)
            yield (
                f"| {row['stage']} | {mode} | {' | '.join(held)} | {share} | {said} | "
                f"{found['estimate'] / found['peak']:.0%} | 100% +- {GOALS['dry run']:.0%} |"
            )


def time_table(rows: list[dict]) -> Iterator[str]:
    yield "| stage | mode | iteration | network calls | optimizer | data | iteration over the three | goal |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        for mode in MODES:
            found = row[mode]
            parts = " | ".join(f"{found[name]:.3f} s" for name in ("iteration", "calls", "optimizer", "data"))
            yield f"| {row['stage']} | {mode} | {parts} | {found['ratio']:.3f} | <= {GOALS['time']} |"


if __name__ == "__main__":
    main()
