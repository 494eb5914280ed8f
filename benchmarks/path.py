"""How long two paths through the code are: what somebody reads who follows an expert or a backbone.

    python benchmarks/path.py [--root ANOTHER_CHECKOUT]

Needs a ComfyUI (see `make hosts`), diffusers and peft; the newest ComfyUI found is used. The paths:

    expert      from its name in DCM Load Expert, through DCM Apply Experts, to the end of the first detail call
    backbone    from its name in DCM Load Backbone to the MODEL, for a diffusers file
    bundle      the same for a released bundle, whose detail expert comes along

A tracer sees every call of a function of nodes/ and dcm_core/ while the real host runs them on a tiny random Wan. What
it counts:

    files       files of the project that are entered at all
    functions   functions that are entered at all
    turns       ways from a function into one of another file, each once: how often a reader turns to another file
    entries     how often execution comes into a file from another file, or from the host
    calls       calls of functions

Loops over layers and tensors multiply entries and calls, but nothing else. Comprehensions belong to the function that
they stand in. Writes results/path.json, which also tells the files and the busiest ways between them, and path.md; of
another checkout, which is measured by this very program, it only prints both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Comes first: it makes the tests' helpers importable.
from comfy_run import measured_in, newest_host, write_results
from harness.hosts import ROOT
from reference.networks import KINDS
from safetensors.torch import save_file

COUNTS = ("files", "functions", "turns", "entries", "calls")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure; by default this one")
    root = parser.parse_args().root.resolve()
    host = newest_host()
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), root)
        measured = measured_in(host, "path_in_host.py", str(root), folder)
    record = {"command": "python benchmarks/path.py", "comfyui": host.version, **measured}
    if root == ROOT:
        write_results("path", record, as_markdown)
    else:
        print(json.dumps(record, indent=1), as_markdown(record), sep="\n")


def write_files(base: Path, root: Path) -> None:
    """A released bundle, its backbone in diffusers' layout, and its detail expert, where a host looks for them."""
    models = base / "models"
    for name in ("models/diffusion_models", "models/dcm", "custom_nodes", "input", "output", "user"):
        (base / name).mkdir(parents=True)
    network = KINDS["wan"].build()
    save_file(network.state_dict(), models / "diffusion_models" / "backbone.safetensors")
    bundle = models / "diffusion_models" / "bundle.safetensors"
    save_file(KINDS["wan"].add_detail_expert(network).state_dict(), bundle)
    command = ["-m", "dcm_core.convert", "export", str(bundle), str(models / "dcm" / "detail.safetensors")]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def as_markdown(record: dict) -> str:
    lines = [f"| path | {' | '.join(COUNTS)} |", "| --- |" + " ---: |" * len(COUNTS)]
    for name, counted in record["paths"].items():
        lines.append(f"| {name} | {' | '.join(str(counted[count]) for count in COUNTS)} |")
    return "\n".join([*lines, "", f"`{record['command']}`, ComfyUI {record['comfyui']}."]) + "\n"


if __name__ == "__main__":
    main()
