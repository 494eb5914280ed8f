"""The measurements of gpu.py that need the host's own process: each line printed is a JSON object with figures.

    <host python> gpu_in_host.py about                           the card and the versions
    <host python> gpu_in_host.py write PARTS FOLDER              random weights and a random detail expert; counts calls
    <host python> gpu_in_host.py VARIANTS PART FOLDER [options]  some variants, with options of ComfyUI's command line

PART is a record of gpu.py in JSON. Weights are written by a process of their own: with Dynamic VRAM a network that was
built by hand holds none. Times are seconds between synchronised points; the first step of a run, which also prepares
it, is in the run's time and in no step's. Memory is all that the driver counts on the card, other programs' included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_part import CUDA, STEPS, TIMED, Part, distance, now, say
from harness import in_host
from safetensors.torch import save_file

MANY = 50


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


def write(parts: list[dict], folder: Path) -> None:
    """For parts of one network."""
    in_host.prepare()
    import comfy.cli_args

    comfy.cli_args.args.use_pytorch_cross_attention = True  # that which can be counted
    in_host.load_pack()
    part = parts[0]
    if part["family"] == "cogvideox" and not find_spec("comfy.ldm.cogvideo"):
        raise ValueError("this ComfyUI has no CogVideoX: 0.20 and later do")
    from dcm_pack.dcm_core.expert.file import save_expert
    from harness import tiny
    from published_kind import random_expert

    network = getattr(tiny, part["family"])(**part["network"], device="meta")
    # Parameters alone: the released CogVideoX 5B has none of the positions that the host's class makes a buffer of.
    save_file({name: weight(name, like) for name, like in network.named_parameters()}, folder / "backbone.safetensors")
    save_expert(folder / "detail.safetensors", random_expert(network, part["family"], torch.bfloat16))
    if hasattr(os, "sync"):
        os.sync()  # only what is on the disk can be forgotten by the system's cache
    say(flop=[counted(network.to("meta"), each) for each in parts])


def weight(name: str, like: torch.Tensor) -> torch.Tensor:
    """Of a size that keeps activations within 16 bits."""
    if like.ndim == 1:
        return torch.full(like.shape, float(not name.endswith("bias")), dtype=torch.bfloat16)
    inputs = like.shape[1] if like.ndim == 2 else 256
    noise = torch.randn(like.shape, dtype=torch.bfloat16, device="cuda" if CUDA else "cpu")
    return noise.mul_(inputs**-0.5).cpu()


def counted(network: torch.nn.Module, part: dict) -> float:
    """Operations of a call, products and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        more = {"y": torch.empty(1, 768), "guidance": torch.empty(1)} if part["family"] == "hunyuan_video" else {}
        network(torch.empty(part["latent"]), torch.empty(1), torch.empty(1, *part["text"]), **more)
    return float(counter.get_total_flops())


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


def experts(part: Part) -> None:
    part.load_told()
    sigmas = part.schedule.sigmas(STEPS)
    times = part.in_turns(
        dcm=lambda latent: part.four_steps(part.experts, latent),
        stock=lambda latent: part.stock(part.experts, latent, sigmas),
    )
    say(stock=times["stock"]["run"], overhead=times["dcm"]["run"] / times["stock"]["run"])
    part.told(times["dcm"])
    save_file({"video": part.videos["dcm"].contiguous()}, part.reference)


def as_started(part: Part) -> None:
    """What differs is how ComfyUI was started."""
    part.told(part.in_turns(dcm=lambda latent: part.four_steps(part.experts, latent))["dcm"])
    part.difference_told(part.videos["dcm"])


def merged(part: Part) -> None:
    from dcm_pack.nodes.bake import DCMBake

    semantic, detail = DCMBake.execute(part.experts)[:2]
    pair = part.in_turns(pair=lambda latent: part.four_steps(semantic, latent, low_noise_model=detail))
    part.told(pair["pair"])
    part.difference_told(part.videos["pair"])


def attention(part: Part) -> None:
    chosen = with_attention(part)
    times = part.in_turns(
        host=lambda latent: part.four_steps(part.experts, latent), dcm=lambda latent: part.four_steps(chosen, latent)
    )
    say(stock=times["host"]["run"], gain=times["host"]["run"] / times["dcm"]["run"])
    say(host_ratio=times["host"]["detail"] / times["host"]["semantic"])
    part.told(times["dcm"])
    say(difference=distance(part.videos["dcm"], part.videos["host"]), chosen=chosen_ways())
    save_file({"video": part.videos["host"].contiguous()}, part.reference)


def compiled(part: Part) -> None:
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    model = TorchCompileModel.execute(with_attention(part), "inductor" if CUDA else "eager")[0]
    start = now()
    part.four_steps(model, part.latent)
    first = now() - start
    # Never of a few frames, which would be compiled too.
    times = part.in_turns(dcm=lambda latent: part.four_steps(model, part.latent))["dcm"]
    say(compiling=first - times["run"])
    part.told(times)
    part.difference_told(part.videos["dcm"])


def with_attention(part: Part) -> Any:
    from dcm_pack.nodes.attention import DCMAttention

    return DCMAttention.execute(part.experts)[0]


def chosen_ways() -> str:
    from dcm_pack.nodes.backbone import attention_choice

    ways = {(shape.queries, shape.keys): choice for shape, choice in attention_choice._chosen.items()}
    each = (f"{attention_choice.described(way)} ({q} x {k})" for (q, k), way in ways.items())
    return "; ".join(each) or "none was chosen"


def guided(part: Part) -> None:
    few = part.in_turns(dcm=lambda latent: part.four_steps(part.experts, latent))["dcm"]["run"]
    part.stock(part.plain, part.latent, part.schedule.sigmas(MANY)[: TIMED + 2], part.cfg)
    step = statistics.mean(part.steps()[1:])
    say(run=few, guided_step=step, many_calculated=MANY * step, gain=MANY * step / few)


VARIANTS: dict[str, Callable[[Part], None]] = {
    "experts": experts,
    "attention": attention,
    "merged": merged,
    "guided": guided,
    "compiled": compiled,
}


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


def main(what: str, *given: str) -> None:
    if what == "about":
        return about()
    part, folder = json.loads(given[0]), Path(given[1])
    try:
        if what == "write":
            return write(part, folder)
        start_host(["--base-directory", str(folder), *given[2:]])
    except Exception as error:
        return say(failed=reason(error))
    loaded: list[Part] = []
    for variant in what.split(","):
        say(variant=variant)
        try:
            with torch.inference_mode(), peak_told():
                loaded = loaded or [Part(part, folder)]
                loaded[0].unload()
                VARIANTS.get(variant, as_started)(loaded[0])
            say(complete=True)
        except Exception as error:
            say(failed=reason(error))
            loaded = []  # of which it may have left a half


def reason(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "no reason given")
    kind = "does not fit" if isinstance(error, torch.cuda.OutOfMemoryError) else type(error).__name__
    return f"{kind}: {first}"


if __name__ == "__main__":
    main(*sys.argv[1:])
