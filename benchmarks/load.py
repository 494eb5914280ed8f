"""What opening a released bundle as it is costs, against the stock loader on the same weights converted for it.

    python benchmarks/load.py [--rounds 5]

Needs a ComfyUI (see `make hosts`), diffusers and peft; the newest ComfyUI found is used. The bundles are random, of
the published widths, dtypes and adapter rank, with fewer blocks. Writes results/load.json and load.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

# Comes first: it makes the tests' helpers importable.
from comfy_run import machine, measured_in, newest_host, write_results
from reference.networks import KINDS
from safetensors.torch import save_file

RANK = 128
# Blocks that make about 1.5 GB each; Wan was released in float32, HunyuanVideo in bfloat16.
BUNDLES = {
    "wan": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 7}, torch.float32),
    "hunyuan_video": (
        {"num_attention_heads": 24, "num_layers": 1, "num_single_layers": 2, "text_embed_dim": 4096},
        torch.bfloat16,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    host, where = newest_host(), machine()
    with tempfile.TemporaryDirectory() as folder:
        for family, (sizes, dtype) in BUNDLES.items():
            write_bundle(Path(folder) / f"{family}.safetensors", family, sizes, dtype)
        measured = measured_in(host, "load_in_host.py", folder, str(rounds))
    record = {
        "command": f"python benchmarks/load.py --rounds {rounds}",
        "machine": where,
        "comfyui": host.version,
        **measured,
    }
    write_results("load", record, as_markdown)


def write_bundle(path: Path, family: str, sizes: dict, dtype: torch.dtype) -> None:
    kind = KINDS[family]
    kind = replace(kind, sizes=kind.sizes | sizes)
    network = kind.add_detail_expert(kind.build(), rank=RANK)
    save_file({name: tensor.to(dtype) for name, tensor in network.state_dict().items()}, path)


def as_markdown(record: dict) -> str:
    lines = ["| | time against UNETLoader | min to max | goal | memory while loading | of UNETLoader |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for family, measured in record["bundles"].items():
        low, high = measured["ratio_min_max"]
        spread = f"{low} to {high} in {measured['rounds']} rounds"
        memory = [f"{measured['memory'][name]} x the network" for name in ("DCMLoadBackbone", "UNETLoader")]
        size = f"{family}, {measured['bytes'] / 1e9:.2f} GB {measured['dtype']}"
        lines.append(f"| {size} | {measured['ratio']} | {spread} | <= 1.3 | {memory[0]} | {memory[1]} |")
    about = f"ComfyUI {record['comfyui']}, torch {record['torch']}, {record['device']}; {record['machine']}"
    return "\n".join([*lines, "", f"`{record['command']}`. {about}."]) + "\n"


if __name__ == "__main__":
    main()
