"""What two experts cost on a GPU: whole networks of random weights in ComfyUI, at the sizes of real videos.

    python benchmarks/gpu.py [--parts wan1.3b wan14b] [--variants experts attention] [--minutes 30]
    python benchmarks/gpu.py --small        the same code on a CPU with a tiny Wan: no figures to quote

Needs a ComfyUI (see `make hosts`) with a CUDA build of PyTorch; the newest one found is used. Each part, a network at a
size of video, is measured by variants; those that want the same options of ComfyUI's share a process:

    experts      4 steps in DCM KSampler, in turns with stock SamplerCustom at the same sigmas, over the same MODEL;
                 and how long the backbone takes to load, from the disk and from the system's cache of it
    attention    4 steps with DCM Attention, in turns with the host's attention
    merged       4 steps over two MODELs that the experts are merged into
    guided       4 steps against 50 guided ones, calculated from 3 that are timed
    compiled     4 steps with DCM Attention and stock TorchCompileModel, and how long it compiles (--bf16-unet)
    24 GB, 12 GB 4 steps with all but so much of the card kept away from ComfyUI (--reserve-vram)
    low VRAM     4 steps without Dynamic VRAM, with 6 GB (--lowvram --disable-dynamic-vram)
    no VRAM      4 steps without Dynamic VRAM and with no weights kept on the card (--novram --disable-dynamic-vram)

Each figure is written to results/gpu_CARD.json when it is there, and a rerun takes up what is missing: what this card
and these versions have measured, or cannot hold, stays. What fails is written with its reason, and tried again by the
next run. At the end, or when the minutes are over, gpu_CARD.md tells all in tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

# Comes first: it makes the tests' helpers importable.
from comfy_run import HERE, newest_host
from gpu_goals import as_markdown
from harness.hosts import ROOT, Host

from dcm_core.files.atomic import atomic_write

CLASSIC = "--disable-dynamic-vram"
# Options of ComfyUI's command line, and GiB of the card that it may have.
VARIANTS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "experts": ((), None),
    "attention": ((), None),
    "merged": ((), None),
    "guided": ((), None),
    "compiled": (("--bf16-unet",), None),
    "24 GB": ((), 24),
    "12 GB": ((), 12),
    "low VRAM": (("--lowvram", CLASSIC), 6),
    "no VRAM": (("--novram", CLASSIC), None),
}
LONGEST = 3600  # seconds for one process, where --minutes leaves more


@dataclass(frozen=True)
class Part:
    """A network, given to its function in tests/harness/tiny.py, and what it is run on."""

    family: str
    network: dict[str, int]
    latent: tuple[int, ...]
    text: tuple[int, int]  # tokens and channels
    cfg: float  # of a guided step; 1 where the guidance is an input, and a step one call
    rounds: int = 3
    flop: float = 0.0  # of a call of the network, counted when the weights are written


def latent(height: int, width: int, frames: int) -> tuple[int, ...]:
    return (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)


HUNYUAN = {"context": 4096, "width": 3072, "double": 20, "single": 40}
COGVIDEOX = {"heads": 48, "blocks": 42, "context": 4096, "time": 512}
# The most important first; those of one network beside each other, whose weights are written once.
PARTS = {
    "wan1.3b": Part("wan", {"dim": 1536, "blocks": 30, "ffn": 8960}, latent(480, 832, 81), (512, 4096), 5.0),
    "hunyuan720": Part("hunyuan_video", HUNYUAN, latent(720, 1280, 129), (256, 4096), 1.0, rounds=1),
    "hunyuan544": Part("hunyuan_video", HUNYUAN, latent(544, 960, 61), (256, 4096), 1.0, rounds=1),
    "wan14b": Part("wan", {"dim": 5120, "blocks": 40, "ffn": 13824}, latent(480, 832, 81), (512, 4096), 5.0, rounds=1),
    "cogvideox5b": Part("cogvideox", COGVIDEOX, latent(480, 720, 49), (226, 4096), 6.0),
}
SMALL = {"wan": {}, "hunyuan_video": {"context": 4096}, "cogvideox": {"context": 4096}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default all, and with --small the first")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS], help="default all")
    parser.add_argument("--minutes", type=float, default=240, help="begin and run nothing longer; default 240")
    parser.add_argument("--small", action="store_true", help="tiny networks on the CPU, written to runs/")
    parser.add_argument("--results", type=Path, help="another folder for the results")
    given = parser.parse_args()
    host, deadline = newest_host(), time.monotonic() + 60 * given.minutes
    about = next(lines(host, time.monotonic() + LONGEST, given.small, "about"))
    if "failed" in about:
        raise SystemExit(about["failed"])
    if not given.small and not about.get("card"):
        raise SystemExit(
            "there is no CUDA GPU that this ComfyUI's PyTorch can use: --small runs tiny networks on the CPU"
        )
    folder = given.results or (ROOT / "runs" if given.small else HERE / "results")
    results = Results(folder, "small" if given.small else about["card"], about | {"comfyui": host.version})
    parts = given.parts or [*PARTS][: 1 if given.small else None]
    wanted = [(name, small(PARTS[name]) if given.small else PARTS[name]) for name in PARTS if name in parts]
    variants = [each for each in VARIANTS if each in given.variants]
    for _, of_one in groupby(wanted, key=lambda each: (each[1].family, each[1].network)):
        measure(dict(of_one), variants, host, results, deadline, given.small)
    results.write_tables()


def small(part: Part) -> Part:
    sizes = {"network": SMALL[part.family], "latent": latent(64, 64, 9), "text": (16, 4096), "rounds": 1}
    return replace(part, **sizes)


class Results:
    """results/gpu_CARD.json, written anew with each figure, and the tables beside it."""

    def __init__(self, folder: Path, card: str, about: dict):
        self.path = folder / f"gpu_{re.sub(r'[^A-Za-z0-9.]+', '_', card)}.json"
        self.memory = about["memory"]
        self.versions = {name: about[name] for name in ("comfyui", "torch", "driver")} | {"dcm": pack_version()}
        self.record: dict = {"card": card, "parts": {}}
        if self.path.is_file():
            self.record = json.loads(self.path.read_text("utf-8"))
        folder.mkdir(parents=True, exist_ok=True)

    def settled(self, name: str, variant: str) -> bool:
        """Whether these versions have measured that, or found that it does not fit."""
        row = self.record["parts"].get(name, {}).get(variant, {})
        over = row.get("complete") or row.get("failed", "").startswith("does not fit")
        return bool(over) and row["versions"] == self.versions

    def begin(self, name: str, variant: str) -> None:
        self.record["parts"].setdefault(name, {})[variant] = {"versions": self.versions}

    def add(self, name: str, variant: str, figures: dict) -> None:
        self.record["parts"][name][variant] |= figures
        self.write(self.path, json.dumps(self.record, indent=1) + "\n")

    def write_tables(self) -> None:
        tables = as_markdown(self.record)
        self.write(self.path.with_suffix(".md"), tables)
        print(tables)

    def write(self, path: Path, text: str) -> None:
        with atomic_write(path) as file:
            file.write(text.encode())


def pack_version() -> str:
    """With a digest of the code that is measured: what it was before an edit is measured anew."""
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[0]
    code = [path for folder in ("nodes", "dcm_core") for path in ROOT.glob(f"{folder}/**/*.py")]
    digest = hashlib.sha256()
    for path in sorted([*code, *HERE.glob("gpu*.py")]):
        digest.update(path.read_bytes())
    return f"{version} ({digest.hexdigest()[:12]})"


def measure(
    parts: dict[str, Part],
    variants: list[str],
    host: Host,
    results: Results,
    deadline: float,
    on_cpu: bool,
) -> None:
    """Variants of parts with one network, none of which stops the others; its weights lie on the disk meanwhile."""
    wanted = {name: [each for each in variants if not results.settled(name, each)] for name in parts}
    if not any(wanted.values()) or time.monotonic() > deadline:
        return
    with tempfile.TemporaryDirectory() as folder:
        records, written = json.dumps([asdict(part) for part in parts.values()]), {}
        for told in lines(host, deadline, on_cpu, "write", records, folder):
            written |= told
        for name, flop in zip(parts, written.get("flop", [0.0] * len(parts)), strict=True):
            part = json.dumps(asdict(replace(parts[name], flop=flop)))
            for options, group in groupby(wanted[name], key=lambda each: host_options(each, results.memory, on_cpu)):
                if time.monotonic() > deadline:
                    return
                together = list(group)
                if "failed" in written:
                    for variant in together:
                        results.begin(name, variant)
                        results.add(name, variant, written)
                    continue
                run(name, together, lines(host, deadline, on_cpu, ",".join(together), part, folder, *options), results)


def run(name: str, variants: list[str], told: Iterator[dict], results: Results) -> None:
    """Writes down what a process says of its variants, one after another: where it dies, of that which it was at."""
    variant = variants[0]
    results.begin(name, variant)
    print(name, variant, flush=True)
    for figures in told:
        said = figures.pop("variant", variant)
        if said != variant:
            variant = said
            results.begin(name, variant)
            print(name, variant, flush=True)
        results.add(name, variant, figures)


def host_options(variant: str, memory: float, on_cpu: bool) -> list[str]:
    """Of ComfyUI's command line. ``memory``: GiB of the card."""
    options, left = VARIANTS[variant]
    reserved = [] if left is None else ["--reserve-vram", f"{max(memory - left, 0):.2f}"]
    return ["--cpu"] if on_cpu else [*options, *reserved]  # ComfyUI takes --cpu beside none of the others


def lines(host: Host, deadline: float, on_cpu: bool, *arguments: str) -> Iterator[dict]:
    """What gpu_in_host.py says, line by line, and why its process ended where that was no good end.

    Nothing more at the end where the minutes were over: then the next run measures it.
    """
    environment = host.environment() | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    command = [str(host.python), str(HERE / "gpu_in_host.py"), *arguments]
    left = max(deadline - time.monotonic(), 1)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=host.folder, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        timer = threading.Timer(min(left, LONGEST), process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    yield json.loads(line)
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no word"])[-1]
    if code and time.monotonic() < deadline:
        yield {"failed": f"the process ended with {code}: {last}"}


if __name__ == "__main__":
    main()
