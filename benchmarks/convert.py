"""What a conversion costs: its memory over the largest tensor, and its time against `cp` of the same bytes.

    python benchmarks/convert.py [--gigabytes 4] [--rounds 3] [--folder /somewhere/with/space]

Makes a bundle in the released layout with layers of the real width and as many blocks as fill that size, for Wan (as
released in float32) and HunyuanVideo (bfloat16). Needs three times the size on disk. Every conversion is a process of
its own; `cp` copies its result in the same round. Writes results/convert.json and convert.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from harness.diffusers_models import network  # noqa: E402

from dcm_core.convert.progress import size_text  # noqa: E402
from dcm_core.families.presets import find_family  # noqa: E402
from dcm_core.families.released import write_names  # noqa: E402
from dcm_core.files.format import TensorInfo, tensor_bytes, tensor_size  # noqa: E402
from dcm_core.files.stream import stream_tensors  # noqa: E402

RANK = 128
ADAPTED = (".to_q", ".to_k", ".to_v", ".to_out.0")
# diffusers' arguments of the released networks, but for the number of blocks; and the dtype of the released file.
REAL = {
    "wan": (
        "wan t2v",
        {"num_attention_heads": 12, "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 8960},
        "F32",
    ),
    "hunyuan_video": (
        "hunyuan_video t2v",
        {"num_attention_heads": 24, "attention_head_dim": 128, "mlp_ratio": 4.0, "text_embed_dim": 4096,
         "pooled_projection_dim": 768, "rope_axes_dim": (16, 56, 56)},
        "BF16",
    ),
}  # fmt: skip
# One process per conversion. The clock starts when the libraries are imported, which is no part of a conversion.
CHILD = """
import json, resource, sys, time
from dcm_core.convert.command import main
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
start = time.perf_counter()
status = main(sys.argv[1:])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"seconds": seconds, "peak": peak, "libraries": before}))
sys.exit(status)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work; by default the system's temporary folder")
    options = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measured = [row for family in REAL for row in measure(family, Path(folder), options.gigabytes, options.rounds)]
    record = {
        "command": f"python benchmarks/convert.py --gigabytes {options.gigabytes:g} --rounds {options.rounds}",
        "machine": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} CPU cores, "
        f"load average {load:.1f} at the start",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "conversions": measured,
    }
    (HERE / "results" / "convert.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (HERE / "results" / "convert.md").write_text(as_markdown(record), encoding="utf-8")
    print(as_markdown(record))


def measure(family: str, folder: Path, gigabytes: float, rounds: int) -> Iterator[dict]:
    """Each conversion `rounds` times, and `cp` of its result after it, with and without waiting for the disk."""
    bundle = folder / "bundle.safetensors"
    infos = released_infos(family, gigabytes * 1e9)
    write_random(bundle, infos)
    largest = max(map(tensor_size, infos.values()))
    made = {name: folder / f"{name}.safetensors" for name in ("backbone", "detail", "again")}
    steps = {
        "released bundle to ComfyUI backbone": (made["backbone"], ["to-comfy", bundle]),
        "released bundle to detail expert": (made["detail"], ["export", bundle]),
        "both back to a released bundle": (
            made["again"],
            ["to-diffusers", made["backbone"], "--expert", made["detail"]],
        ),
    }
    for what, (target, (command, source, *more)) in steps.items():
        runs = []
        for _ in range(rounds):
            target.unlink(missing_ok=True)
            os.sync()
            run = converted([command, str(source), str(target), *map(str, more)])
            copy = folder / "copy"
            os.sync()
            run["cp"], run["cp_and_sync"] = copied(target, copy)
            copy.unlink()
            runs.append(run)
        yield summary(family, what, bundle, target, largest, runs)
        if target == made["again"]:
            target.unlink()
    for path in (bundle, *made.values()):
        path.unlink(missing_ok=True)


def summary(family: str, what: str, source: Path, target: Path, largest: int, runs: list[dict]) -> dict:
    ours, *theirs = ([run[kind] for run in runs] for kind in ("seconds", "cp", "cp_and_sync"))
    ratios = [run["seconds"] / run["cp_and_sync"] for run in runs]
    peak = max(run["peak"] for run in runs)
    return {
        "family": family,
        "what": what,
        "read_bytes": source.stat().st_size,
        "written_bytes": target.stat().st_size,
        "largest_tensor": largest,
        "peak_memory": peak,
        "peak_over_largest_tensor": peak - largest,
        "memory_of_libraries": max(run["libraries"] for run in runs),
        "seconds": [round(each, 2) for each in ours],
        "cp_seconds": [round(each, 2) for each in theirs[0]],
        "cp_and_sync_seconds": [round(each, 2) for each in theirs[1]],
        "ratio_to_cp": round(min(ours) / min(theirs[0]), 2),
        "ratio_to_cp_and_sync": round(min(ours) / min(theirs[1]), 2),
        "ratio_to_cp_and_sync_by_round": [round(each, 2) for each in ratios],
    }


def converted(arguments: list[str]) -> dict:
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def copied(source: Path, target: Path) -> tuple[float, float]:
    """Seconds until the system's own copy is done, and until it is on the disk, as a conversion's result is."""
    start = time.perf_counter()
    if shutil.which("cp"):
        subprocess.run(["cp", str(source), str(target)], check=True)
    else:
        shutil.copyfile(source, target)
    copied = time.perf_counter()
    with open(target, "r+b") as file:
        os.fsync(file.fileno())
    return copied - start, time.perf_counter() - start


def released_infos(family: str, size: float) -> dict[str, TensorInfo]:
    """The tensors of a bundle of about this many bytes."""
    blocks, infos = 0, {}
    while not infos or (sum(map(tensor_size, infos.values())) < size and blocks < 60):
        blocks += 1
        infos = with_blocks(family, blocks)
    return infos


def with_blocks(family: str, blocks: int) -> dict[str, TensorInfo]:
    name, sizes, dtype = REAL[family]
    # HunyuanVideo has two single blocks for each double one.
    depth = {"num_layers": blocks} if family == "wan" else {"num_layers": blocks, "num_single_layers": 2 * blocks}
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in network(name, **sizes, **depth).state_dict().items()}
    modules = (key.removesuffix(".weight") for key in shapes)
    adapted = [module for module in modules if module.endswith(ADAPTED)]
    twins = [key for key in shapes if key.partition(".")[0] in find_family(family).keymap.twins]
    names = write_names(shapes, adapted, twins)
    bundle = {names.base[key]: shape for key, shape in shapes.items()}
    bundle |= {names.twins[key]: shapes[key] for key in twins if key in names.twins}
    for module in adapted:
        rows, columns = shapes[f"{module}.weight"]
        bundle |= {names.down[module]: (RANK, columns), names.up[module]: (rows, RANK)}
    return {key: TensorInfo(dtype, shape) for key, shape in bundle.items()}


def write_random(path: Path, infos: dict[str, TensorInfo]) -> None:
    """Random numbers over and over: their values cost and gain nothing here, but they have to be finite."""
    dtype = next(iter(infos.values())).dtype
    block = torch.randn(1 << 22).to({"F32": torch.float32, "BF16": torch.bfloat16}[dtype])
    pattern = tensor_bytes(block)
    with stream_tensors(path, infos, {"format": "pt"}) as writer:
        for name, info in infos.items():
            size = tensor_size(info)
            pieces = [pattern] * math.ceil(size / len(pattern))
            if pieces:
                pieces[-1] = pattern[: size - len(pattern) * (len(pieces) - 1)]
            writer.put(name, *pieces)


def as_markdown(record: dict) -> str:
    head = (
        "| | read | written | largest tensor | peak memory over it | of which libraries | "
        "seconds | time to `cp` and sync | by round | time to `cp` alone |"
    )
    lines = [head, "| " + " | ".join(["---"] * 10) + " |"]
    for row in record["conversions"]:
        sizes = [size_text(row[key]) for key in ("read_bytes", "written_bytes", "largest_tensor")]
        memory = [size_text(row[key]) for key in ("peak_over_largest_tensor", "memory_of_libraries")]
        rounds = ", ".join(map(str, row["ratio_to_cp_and_sync_by_round"]))
        ratios = [min(row["seconds"]), row["ratio_to_cp_and_sync"], rounds, row["ratio_to_cp"]]
        cells = [f"{row['family']}: {row['what']}", *sizes, *memory, *ratios]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    goals = "Goals: at most 1.5 GB of memory over the largest tensor, and 1.3 times `cp`."
    how = (
        "Both sides in one run, from a file that the system has in memory. A conversion ends when its file is on the "
        "disk, so it is `cp` and sync that does the same work; `cp` alone leaves it to be written later. Seconds and "
        "ratios are of the fastest round of each side. The detail expert is computed, not copied."
    )
    about = f"torch {record['torch']}, Python {record['python']}; {record['machine']}"
    return "\n".join([*lines, "", f"{goals} {how}", "", f"`{record['command']}`. {about}."]) + "\n"


if __name__ == "__main__":
    main()
