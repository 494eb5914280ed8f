"""The measurements of load.py that need the host's own process: run by its Python, prints one JSON line.

Times are seconds of processor time of this process, one thread, with the files in the page cache; both sides are
measured in turns. Memory is what the process holds of its own (no mapped files) at its highest while loading, above
what it held before.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import in_host

in_host.prepare()
in_host.load_pack()

import folder_paths  # noqa: E402
from dcm_pack.dcm_core.backbone.file import BackboneFile  # noqa: E402
from dcm_pack.nodes.backbone.load import load_backbone  # noqa: E402
from dcm_pack.nodes.load_backbone import DCMLoadBackbone  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import nodes  # noqa: E402


def main(folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    _, extensions = folder_paths.folder_names_and_paths["diffusion_models"]
    folder_paths.folder_names_and_paths["diffusion_models"] = ([str(folder)], extensions)
    results = {}
    with torch.inference_mode():
        for bundle in sorted(folder.glob("*.safetensors")):
            results[bundle.stem] = compared(bundle, rounds)
    device = "CPU, one thread, processor time"
    print(json.dumps({"bundles": results, "device": device, "torch": torch.__version__}))


def compared(bundle: Path, rounds: int) -> dict:
    file = BackboneFile.open(bundle)
    dtype = file.layout.dtype
    stored = {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    network = load_backbone(str(bundle)).model.model.diffusion_model
    size = sum(parameter.nbytes for parameter in network.parameters())
    converted = bundle.with_name(f"{bundle.stem}_comfy.safetensors")
    save_file({name: tensor.to(stored) for name, tensor in network.state_dict().items()}, converted)
    del network
    runs = {
        "UNETLoader": lambda: nodes.UNETLoader().load_unet(converted.name, "default"),
        "DCMLoadBackbone": lambda: DCMLoadBackbone.execute(bundle.name, "default"),
    }
    memory = {name: round_to(highest(run) / size) for name, run in runs.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round in range(rounds):
        for name in list(runs)[:: 1 if round % 2 else -1]:
            times[name].append(timed(runs[name]))
    converted.unlink()
    ratios = sorted(ours / stock for stock, ours in zip(*times.values(), strict=True))
    return {
        "bytes": file.source.size,
        "dtype": dtype,
        **{name: round_to(statistics.median(values)) for name, values in times.items()},
        "ratio": round_to(statistics.median(ratios)),
        "ratio_min_max": [round_to(ratios[0]), round_to(ratios[-1])],
        "rounds": rounds,
        "memory": memory,
    }


def timed(run: Callable) -> float:
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def highest(run: Callable) -> int:
    """Bytes of anonymous memory at the highest point of the run, above those before it (Linux)."""
    gc.collect()
    before, seen, over = own_memory(), [0], threading.Event()

    def watch():
        while not over.wait(0.002):
            seen[0] = max(seen[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    over.set()
    watcher.join()
    return seen[0] - before


def own_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def round_to(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
