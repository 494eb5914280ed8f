"""What an iteration of the trainer takes: peak memory of adapter mode against full mode.

    python benchmarks/train.py

A Wan network as wide as one CPU can step, on so few tokens that weights are most of full mode's peak: both stages, both
modes, one process each. Counted is anonymous memory over what the libraries take, the peak of two iterations. A detail
expert saves one copy of two in adapter mode, beside an adapter with its moments that is as large in both: the share
falls with the size of the backbone. Writes results/train.json and train.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

GOAL = 0.55
RANK = 16
ARCHITECTURE = {"num_attention_heads": 8, "attention_head_dim": 96, "ffn_dim": 3072, "num_layers": 6}
STAGES = ("semantic", "detail")
CHILD = """
import json, sys, threading, time
from pathlib import Path
from training.config import Config, build
from training.trainer import build_trainer

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

values = json.loads(sys.argv[1])
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
method = build_trainer(build(Config, values)).method
held = anonymous() - before
watcher.start()
for iteration in range(2):
    method.step(iteration)
done = True
watcher.join()
weights = sum(p.numel() * p.element_size() for network in method.networks for p in network.parameters())
trained = sum(p.numel() for p in method.trainable.values())
print(json.dumps({"peak": peak - before, "held": held, "weights": weights, "trained": trained}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        rows = [measure(Path(folder), stage) for stage in STAGES]
    write(rows)


def make_files(folder: Path) -> None:
    """A teacher of random weights, and a semantic expert of both kinds over it."""
    import torch

    from training.config import BackboneConfig
    from training.networks.exchange import save_backbone
    from training.registry import build_backbone

    backbone = build_backbone(BackboneConfig(name="shapes", architecture=ARCHITECTURE))
    save_backbone(folder / "teacher.safetensors", backbone.comfy_state(backbone.build(0)), torch.float32, {})
    from training.trainer import build_trainer

    for mode in ("full", "adapter"):
        run = build_trainer(build_config(folder, "semantic", mode))
        run.method.step(0)
        run.method.export(folder / f"semantic_{mode}.safetensors")


def values(folder: Path, stage: str, mode: str) -> dict:
    """A configuration with one stage."""
    options = {"mode": mode, "rank": RANK, "alpha": 2.0 * RANK, "teacher": str(folder / "teacher.safetensors")}
    if stage == "detail":
        options |= {"semantic": str(folder / f"semantic_{mode}.safetensors"), "discriminator": {"width": 64}}
    return {
        "output": str(folder / mode),
        "stage": stage,
        "device": "cpu",
        "backbone": {"name": "shapes", "architecture": ARCHITECTURE},
        "data": {"batch_size": 1},
        "stages": {stage: {"method": stage, "iterations": 2, "options": options}},
    }


def build_config(folder: Path, stage: str, mode: str):
    from training.config import Config, build

    return build(Config, values(folder, stage, mode))


def measure(folder: Path, stage: str) -> dict:
    """Both modes of a stage, each in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent), "MALLOC_ARENA_MAX": "1"}
    found: dict = {"stage": stage}
    for mode in ("full", "adapter"):
        command = [sys.executable, "-c", CHILD, json.dumps(values(folder, stage, mode))]
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        found[mode] = json.loads(output.splitlines()[-1])
    found["ratio"] = found["adapter"]["peak"] / found["full"]["peak"]
    return found


def write(rows: list[dict]) -> None:
    import torch

    machine = f"torch {torch.__version__}, CPU, one thread; {platform.machine()}, {os.cpu_count()} CPU cores"
    result = {"machine": machine, "architecture": ARCHITECTURE, "rank": RANK, "goal": GOAL, "rows": rows}
    (HERE / "results" / "train.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        "| stage | full mode: weights | peak | adapter mode: weights | peak | of full mode's | goal |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        sizes = [f"{row[mode][what] / 1e6:.0f} MB" for mode in ("full", "adapter") for what in ("weights", "peak")]
        lines.append(f"| {row['stage']} | {' | '.join(sizes)} | {row['ratio']:.0%} | <= {GOAL:.0%} |")
    text = "\n".join([*lines, "", f"`python benchmarks/train.py`. {machine}."])
    (HERE / "results" / "train.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
