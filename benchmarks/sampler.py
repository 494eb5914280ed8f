"""What two experts cost in ComfyUI: ratios, both sides measured in one run.

    python benchmarks/sampler.py [--rounds 3]

Needs a ComfyUI (see `make hosts`); the newest one found is used. Writes results/sampler.json and sampler.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

# Comes first: it makes the tests' helpers importable.
from comfy_run import machine, measured_in, newest_host, write_results
from harness.client import Client
from harness.hosts import Host
from harness.server import HostServer

CAPTION = "a red striped circle moving left fast"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    host, where = newest_host(), machine()
    measured = measured_in(host, "sampler_in_host.py", str(rounds))
    record = {
        "command": f"python benchmarks/sampler.py --rounds {rounds}",
        "machine": where,
        "comfyui": host.version,
        **measured,
        "prompt": prompt_to_mp4(host),
    }
    write_results("sampler", record, as_markdown)


def prompt_to_mp4(host: Host) -> dict:
    """Seconds from sending a Shapes prompt to its mp4: the first one of a fresh server, and a later one."""
    seconds = {}
    for name, make in (("4 steps, experts", experts_prompt), ("50 steps, teacher", teacher_prompt)):
        with tempfile.TemporaryDirectory() as folder:
            server = HostServer(host, Path(folder))
            server.start()
            try:
                seconds[name] = {
                    kind: timed(Client(server.address), make(seed)) for seed, kind in enumerate(("cold", "warm"))
                }
            finally:
                server.stop()
    few, many = seconds.values()
    return seconds | {"ratio": {kind: round(few[kind] / many[kind], 3) for kind in few}}


def timed(client: Client, prompt: dict) -> float:
    start = time.perf_counter()
    run = client.run(prompt)
    if run.status != "success":
        raise SystemExit(run.error)
    return round(time.perf_counter() - start, 2)


def experts_prompt(seed: int) -> dict:
    experts = {"model": ["world", 0], "semantic_expert": ["world", 1], "detail_expert": ["world", 2]}
    sampler = {"model": ["experts", 0], "steps": 4, "cfg": 1.0}
    return prompt({"experts": ("DCMApplyExperts", experts)}, "DCMKSampler", sampler | {"seed": seed})


def teacher_prompt(seed: int) -> dict:
    sampler = {"model": ["world", 0], "steps": 50, "cfg": 5.0, "denoise": 1.0}
    return prompt({}, "KSampler", sampler | {"sampler_name": "euler", "scheduler": "simple", "seed": seed})


def prompt(more: dict, sampler: str, inputs: dict) -> dict:
    """From the Shapes world to an mp4, in API format."""
    inputs = inputs | {"positive": ["text", 0], "negative": ["none", 0], "latent_image": ["world", 5]}
    nodes = more | {
        "world": ("DCMShapes", {"batch_size": 1}),
        "text": ("CLIPTextEncode", {"text": CAPTION, "clip": ["world", 3]}),
        "none": ("CLIPTextEncode", {"text": "", "clip": ["world", 3]}),
        "sampler": (sampler, inputs),
        "frames": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["world", 4]}),
        "video": ("CreateVideo", {"images": ["frames", 0], "fps": 8.0}),
        "file": (
            "SaveVideo",
            {"video": ["video", 0], "filename_prefix": "b", "format": "mp4", "codec": "h264"},
        ),
    }
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()}


def as_markdown(record: dict) -> str:
    step, switch, overhead, memory, prompt = (
        record[name] for name in ("step", "switch", "overhead", "memory", "prompt")
    )
    rows = [
        (
            "DCM KSampler against KSampler, same sigmas",
            overhead["ratio"],
            spread(overhead),
            "<= 1.02",
            overhead["size"],
        ),
        *(
            (
                "detail step against semantic step, rank 128",
                measured["ratio"],
                spread(measured),
                "<= 1.05",
                f"{measured['size']}; {measured['ratio_of_flops']} by counted FLOPs",
            )
            for measured in step.values()
        ),
        (
            "switch to the detail expert and back, against a semantic step",
            switch["switch"]["ratio"],
            spread(switch["switch"]),
            "<= 0.02",
            f"{switch['size']}, {switch['layers']} changed layers",
        ),
        (
            "the same with two baked MODELs, which the host patches anew",
            switch["baked"]["ratio"],
            spread(switch["baked"]),
            "",
            switch["size"],
        ),
        (
            "memory of the detail expert against its file",
            memory["ratio"],
            "",
            "<= 1.05",
            "tensors of equal dtype",
        ),
    ]
    rows += [
        (f"Shapes prompt to mp4, 4 steps against 50, {kind}", ratio, "", "", seconds_text(prompt, kind))
        for kind, ratio in prompt["ratio"].items()
    ]
    lines = ["| | ratio | min to max | goal | measured on |", "| --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    about = f"ComfyUI {record['comfyui']}, torch {record['torch']}, {record['device']}; {record['machine']}"
    return "\n".join([*lines, "", f"`{record['command']}`. {about}."]) + "\n"


def spread(measured: dict) -> str:
    low, high = measured["ratio_min_max"]
    return f"{low} to {high} in {measured['rounds']} rounds"


def seconds_text(prompt: dict, kind: str) -> str:
    few, many = prompt["4 steps, experts"][kind], prompt["50 steps, teacher"][kind]
    return f"{few} s and {many} s of wall time"


if __name__ == "__main__":
    main()
