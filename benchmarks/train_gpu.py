"""What an iteration of the trainer takes on a GPU: whole backbones of random weights, on clips that are noise.

    python benchmarks/train_gpu.py [--rows wan1.3b_full wan1.3b_adapter] [--minutes 10]

Both experts of each row, a process a row: seconds of an iteration of one clip, the median of three after a first one;
the operations that a dry run counts, over these seconds; the peak that PyTorch's allocator held, and what a dry run
says of it. Writes results/train_gpu_CARD.json row by row, and train_gpu_CARD.md at the end. Rows that this version of
PyTorch has measured stay: remove the file to measure anew. What failed is tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import train_child
from train import values

HERE = Path(__file__).resolve().parent
# TFLOP a second in bfloat16 that NVIDIA states for these cards.
PEAKS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}
GOAL = 0.5  # of it
COMPUTE = {"dtype": "bfloat16", "checkpointing": "full"}
LONG, SHORT = (16, 21, 60, 104), (16, 9, 60, 104)  # latents of 480x832, 81 and 33 frames
# Name: backbone, size, mode, latents.
ROWS = {
    "wan1.3b_full": ("wan", "1.3b", "full", LONG),
    "wan1.3b_adapter": ("wan", "1.3b", "adapter", LONG),
    "wan14b_adapter": ("wan", "14b", "adapter", SHORT),
    "hunyuanvideo_adapter": ("hunyuan_video", "13b", "adapter", SHORT),
}
STAGES = ("semantic", "detail")
TOLD = {"hunyuan_video": {"guidance": 1.0, "embedded_guidance": 6.0}}  # its network takes guidance as an input


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], help="default all")
    parser.add_argument("--minutes", type=float, default=240, help="begin no further row after them; default 240")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="another folder for the results")
    given = parser.parse_args()
    os.environ |= {"PYTHONPATH": str(HERE)}
    context, until = get_context("spawn"), time.monotonic() + 60 * given.minutes
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        about = processes.submit(train_child.about_gpu).result()
    if about is None:
        raise SystemExit("there is no CUDA GPU that this PyTorch can use")
    path = given.results / f"train_gpu_{re.sub(r'[^A-Za-z0-9.]+', '_', about['card'])}.json"
    record = record_at(path, about)
    for name in given.rows:
        if "failed" not in record["rows"].get(name, {"failed": ""}):
            continue
        if time.monotonic() > until:
            break
        with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
            try:
                record["rows"][name] = processes.submit(row, name).result()
            except RuntimeError as error:  # also of a process that died
                reason = str(error).partition("\n")[0]
                record["rows"][name] = {"failed": f"{type(error).__name__}: {reason}"}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        print(name, record["rows"][name], flush=True)
    text = "\n".join(table(record))
    path.with_suffix(".md").write_text(text + "\n", "utf-8")
    print(text)


def record_at(path: Path, about: dict) -> dict:
    """What is written there, if this version of PyTorch has measured it."""
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return record if record.get("torch") == about["torch"] else {"rows": {}, **about}


def row(name: str) -> dict:
    """Both stages; the second over what the first one exports."""
    backbone, size, mode, shape = ROWS[name]
    settings = {
        "device": "cuda",
        "backbone": {"name": backbone, "size": size},
        "data": {"batch_size": 1},
        "compute": COMPUTE,
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        train_child.random_backbone(settings["backbone"], Path(folder, "teacher.safetensors"))
        for stage in STAGES:
            given = values(Path(folder), settings, stage, mode)
            given["stages"][stage]["options"] |= TOLD.get(backbone, {})
            found[stage] = train_child.on_gpu(given, shape)
            print(name, stage, found[stage], flush=True)
    return found


def table(record: dict) -> Iterator[str]:
    yield "| row | expert | latents | iteration, s | TFLOP a second | share of peak | goal | peak, GiB | dry run |"
    yield "| --- " * 9 + "|"
    peak = PEAKS.get(record["card"])
    for name, (_, _, _, shape) in ROWS.items():
        found = record["rows"].get(name, {"failed": "not run"})
        if "failed" in found:
            yield f"| {name} | {found['failed']} | | | | | | | |"
            continue
        for stage in STAGES:
            this = found[stage]
            rate = this["flop"] / this["iteration"] / 1e12
            share = f"{rate / peak:.0%}" if peak else "not known"
            yield (
                f"| {name} | {stage} | {'x'.join(map(str, shape))} | {this['iteration']:.2f} | {rate:.0f} | "
                f"{share} | >= {GOAL:.0%} | {this['peak'] / 2**30:.1f} | {this['estimate'] / 2**30:.1f} |"
            )
    yield ""
    about = f"{record['card']}, torch {record['torch']}; random weights, clips of noise"
    yield f"`python benchmarks/train_gpu.py`, {about}."
    for name, found in record["rows"].items():
        if "note" in found:  # added by hand; it goes when the row is measured anew
            yield from ("", f"{name}: {found['note']}")


if __name__ == "__main__":
    main()
