"""The measurements of gpu.py that need the host's own process: each line printed is a JSON object with figures.

    <host python> gpu_in_host.py about                           the card and the versions
    <host python> gpu_in_host.py write PART FOLDER               random weights and a random detail expert
    <host python> gpu_in_host.py VARIANT PART FOLDER [options]   one variant, with options of ComfyUI's command line

PART is a record of gpu.py in JSON. Weights are written by a process of their own: with Dynamic VRAM a network that was
built by hand holds none. Times are seconds between synchronised points; the first step of a run, which also prepares
it, is in the run's time and in no step's. Memory is all that the driver counts on the card, other programs' included.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from harness import in_host

STEPS, MANY, TIMED = 4, 50, 3
CUDA = torch.cuda.is_available()


def about() -> None:
    card = torch.cuda.get_device_name() if CUDA else None
    memory = torch.cuda.mem_get_info()[1] / 2**30 if CUDA else 0
    say(card=card, memory=memory, torch=torch.__version__, driver=driver() if CUDA else "none")


def driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(part: dict, folder: Path) -> None:
    in_host.prepare()
    in_host.load_pack()
    if part["family"] == "cogvideox" and not find_spec("comfy.ldm.cogvideo"):
        raise ValueError("this ComfyUI has no CogVideoX: 0.20 and later do")
    from dcm_pack.dcm_core.expert.file import save_expert
    from harness import tiny
    from published_kind import random_expert
    from safetensors.torch import save_file

    network = getattr(tiny, part["family"])(**part["network"], device="meta")
    # Parameters alone: the released CogVideoX 5B has none of the positions that the host's class makes a buffer of.
    save_file({name: weight(name, like) for name, like in network.named_parameters()}, folder / "backbone.safetensors")
    save_expert(folder / "detail.safetensors", random_expert(network, part["family"], torch.bfloat16))


def weight(name: str, like: torch.Tensor) -> torch.Tensor:
    """Of a size that keeps activations within 16 bits."""
    if like.ndim == 1:
        return torch.full(like.shape, float(not name.endswith("bias")), dtype=torch.bfloat16)
    inputs = like.shape[1] if like.ndim == 2 else 256
    noise = torch.randn(like.shape, dtype=torch.bfloat16, device="cuda" if CUDA else "cpu")
    return noise.mul_(inputs**-0.5).cpu()


def start_host(options: list[str]) -> None:
    """As ComfyUI's main.py starts, without its server."""
    sys.argv = ["main.py", *options]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args
    import utils.extra_config  # noqa: F401  the host's own, before its nodes hide it

    args = comfy.cli_args.args
    dynamic = getattr(comfy.cli_args, "enables_dynamic_vram", bool)()
    if dynamic:
        import comfy_aimdo.control

        reserved = None if args.reserve_vram is None else int(args.reserve_vram * 2**30)
        comfy_aimdo.control.init(simple_vram_headroom=reserved, nvml_pressure=not args.disable_nvml_pressure)
    import comfy.model_management
    import comfy.model_patcher

    if dynamic:
        import comfy.memory_management

        devices = comfy.model_management.get_all_torch_devices()
        headroom = int(args.vram_headroom * 2**30)
        dynamic = bool(comfy_aimdo.control.init_devices((device.index, headroom) for device in devices))
        if dynamic:
            comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
            comfy.memory_management.aimdo_enabled = True
    in_host.load_pack()
    say(dynamic_vram=dynamic)


class Part:
    """A loaded backbone with a detail expert, and the runs of it that are timed."""

    def __init__(self, part: dict, folder: Path):
        import latent_preview
        from comfy_extras.nodes_custom_sampler import SamplerCustom
        from dcm_pack.dcm_core.expert.file import load_expert
        from dcm_pack.dcm_core.families.presets import find_family
        from dcm_pack.nodes.apply_experts import DCMApplyExperts
        from dcm_pack.nodes.backbone.load import load_backbone
        from dcm_pack.nodes.ksampler import DCMKSampler

        self.rounds, self.cfg = part["rounds"], part["cfg"]
        self.schedule = find_family(part["family"]).schedule
        self.plain = load_backbone(str(folder / "backbone.safetensors")).model
        self.experts = DCMApplyExperts.execute(self.plain, load_expert(folder / "detail.safetensors"))[0]
        self.text = [[torch.randn(1, *part["text"]), {"pooled_output": torch.randn(1, 768)}]]
        self.latent = {"samples": torch.zeros(part["latent"])}
        self.dcm, self.custom = DCMKSampler.execute, SamplerCustom().sample
        self.moments: list[float] = []
        latent_preview.prepare_callback = self.watched

    def watched(self, *_: Any) -> Callable:
        """In place of the host's previews: notes when the run begins, and when each of its steps has its result."""
        self.moments = [now()]
        return lambda *_: self.moments.append(now())

    def four_steps(self, model: Any, **given: Any) -> None:
        self.dcm(model, 0, STEPS, 1.0, self.text, self.text, self.latent, **given)

    def stock(self, model: Any, sigmas: torch.Tensor, cfg: float = 1.0) -> None:
        import comfy.samplers

        euler = comfy.samplers.sampler_object("euler")
        self.custom(model, True, 0, cfg, self.text, self.text, euler, sigmas, self.latent)

    def in_turns(self, **runs: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Median seconds of each run, and of its semantic and detail steps, after one untimed run each."""
        seen: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
        sigmas = self.schedule.sigmas(STEPS)
        for round in range(-1, self.rounds):
            for name in list(runs)[:: 1 if round % 2 else -1]:
                start = now()
                runs[name]()
                if round < 0:
                    continue
                seen[name].setdefault("run", []).append(now() - start)
                for step, seconds in list(enumerate(self.steps()))[1:]:
                    seen[name].setdefault(str(self.schedule.acting(sigmas[step])), []).append(seconds)
        return {name: {what: statistics.median(all) for what, all in times.items()} for name, times in seen.items()}

    def steps(self) -> list[float]:
        return [after - before for before, after in zip(self.moments, self.moments[1:], strict=False)]


def experts(part: Part) -> None:
    sigmas = part.schedule.sigmas(STEPS)
    times = part.in_turns(dcm=lambda: part.four_steps(part.experts), stock=lambda: part.stock(part.experts, sigmas))
    say(**of_steps(times["dcm"]), stock=times["stock"]["run"], overhead=times["dcm"]["run"] / times["stock"]["run"])


def little_memory(part: Part) -> None:
    say(**of_steps(part.in_turns(dcm=lambda: part.four_steps(part.experts))["dcm"]))


def merged(part: Part) -> None:
    from dcm_pack.nodes.bake import DCMBake

    semantic, detail = DCMBake.execute(part.experts)[:2]
    say(**of_steps(part.in_turns(pair=lambda: part.four_steps(semantic, low_noise_model=detail))["pair"]))


def attention(part: Part) -> None:
    from dcm_pack.nodes.attention import DCMAttention

    chosen = DCMAttention.execute(part.experts)[0]
    times = part.in_turns(host=lambda: part.four_steps(part.experts), dcm=lambda: part.four_steps(chosen))
    say(**of_steps(times["dcm"]), stock=times["host"]["run"], gain=times["host"]["run"] / times["dcm"]["run"])


def guided(part: Part) -> None:
    few = part.in_turns(dcm=lambda: part.four_steps(part.experts))["dcm"]["run"]
    part.stock(part.plain, part.schedule.sigmas(MANY)[: TIMED + 2], part.cfg)
    step = statistics.mean(part.steps()[1:])
    say(run=few, guided_step=step, many_calculated=MANY * step, gain=MANY * step / few)


VARIANTS = {
    "experts": experts,
    "attention": attention,
    "merged": merged,
    "guided": guided,
    "24 GB": little_memory,
    "12 GB": little_memory,
}


def of_steps(times: dict[str, float]) -> dict[str, float]:
    return times | {"ratio": times["detail"] / times["semantic"]}


def now() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def peak_told() -> Iterator[None]:
    """Says the most that the driver counted on the card, in GiB, asked every 5 ms."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            free, total = torch.cuda.mem_get_info()
            most[0] = max(most[0], (total - free) / 2**30)

    watcher = threading.Thread(target=watch)
    if CUDA:
        watcher.start()
    try:
        yield
    finally:
        over.set()
        if CUDA:
            watcher.join()
            say(peak=most[0])


def say(**figures: Any) -> None:
    rounded = {name: float(f"{each:.4g}") if isinstance(each, float) else each for name, each in figures.items()}
    print(json.dumps(rounded), flush=True)


def main(what: str, *given: str) -> None:
    if what == "about":
        return about()
    part, folder = json.loads(given[0]), Path(given[1])
    try:
        if what == "write":
            return write(part, folder)
        start_host(["--base-directory", str(folder), *given[2:]])
        with torch.inference_mode(), peak_told():
            VARIANTS[what](Part(part, folder))
    except torch.cuda.OutOfMemoryError as error:
        say(failed=f"does not fit: {first_line(error)}")
    except Exception as error:
        say(failed=f"{type(error).__name__}: {first_line(error)}")


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")


if __name__ == "__main__":
    main(*sys.argv[1:])
