"""The measurements of sampler.py that need the host's own process: run by its Python, prints one JSON line.

On a CPU, times are seconds of processor time of this process, one thread, so that other work on the machine disturbs
them little; on a GPU they are seconds between synchronised points. Whatever is compared is measured in turns.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import in_host

CUDA = torch.cuda.is_available()
if CUDA:
    import utils.extra_config  # noqa: F401  the host's own, before its nodes hide it
else:
    in_host.prepare()
in_host.load_pack()

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from comfy.ops import disable_weight_init  # noqa: E402
from comfy_extras.nodes_model_advanced import ModelSamplingSD3  # noqa: E402
from dcm_pack.dcm_core.expert.file import load_expert, save_expert  # noqa: E402
from dcm_pack.dcm_core.families.presets import FAMILIES  # noqa: E402
from dcm_pack.nodes.apply_experts import DCMApplyExperts  # noqa: E402
from dcm_pack.nodes.bake import DCMBake  # noqa: E402
from dcm_pack.nodes.ksampler import DCMKSampler  # noqa: E402
from harness import tiny  # noqa: E402
from published_kind import random_expert  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import nodes  # noqa: E402


@dataclass(frozen=True)
class Size:
    """A random network with layers as wide as in a real one, and the latent it is run on."""

    family: str
    blocks: int  # of HunyuanVideo so many double ones, and as many single ones
    latent: tuple[int, ...]
    width: int = 1536  # that of Wan 1.3B; 3072 in HunyuanVideo

    def __str__(self) -> str:
        tokens = self.latent[2] * self.latent[3] * self.latent[4] // 4
        blocks = f"{self.blocks} block(s)" if self.family == "wan" else f"{self.blocks} double and single block(s)"
        return f"{NAMES[self.family]} of width {self.width} with {blocks}, {tokens} tokens"

    def model(self, dtype: torch.dtype):
        if self.family == "wan":
            sizes = {"dim": self.width, "ffn_dim": 35 * self.width // 6, "num_heads": self.width // 128}
            network = WanModel(
                **sizes, num_layers=self.blocks, dtype=dtype, device="cpu", operations=disable_weight_init
            )
        else:
            network = tiny.hunyuan_video(4096, self.width, self.blocks, self.blocks).to(dtype)
        for parameter in network.parameters():
            parameter.data = 0.02 * torch.randn_like(parameter)
        return comfy.sd.load_diffusion_model_state_dict(network.state_dict())

    def with_expert(self, dtype: torch.dtype):
        model = self.model(dtype)
        return DCMApplyExperts.execute(model, random_expert(model.model.diffusion_model, self.family, dtype))[0]

    def text(self) -> list:
        return [[torch.randn(1, 64, 4096), {"pooled_output": torch.randn(1, 768)}]]


NAMES = {"wan": "Wan", "hunyuan_video": "HunyuanVideo"}
STEPS = (
    [Size("wan", 30, (1, 16, 21, 60, 104)), Size("hunyuan_video", 6, (1, 16, 17, 68, 120), 3072)]
    if CUDA
    else [Size("wan", 1, (1, 16, 6, 52, 52)), Size("hunyuan_video", 1, (1, 16, 3, 52, 52))]
)
OVERHEAD = Size("wan", 30, (1, 16, 5, 30, 52)) if CUDA else Size("wan", 2, (1, 16, 2, 16, 16))
MEMORY = Size("wan", 4, (1, 16, 1, 8, 8))
DTYPE = torch.bfloat16 if CUDA else torch.float32


def seconds() -> float:
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(run) -> float:
    start = seconds()
    run()
    return seconds() - start


def compared(runs: dict, rounds: int) -> dict:
    """Median seconds of each run, measured in turns, with the spread of the second's ratio to the first."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round in range(rounds):
        for name in list(runs)[:: 1 if round % 2 else -1]:
            times[name].append(timed(runs[name]))
    first, second = times.values()
    ratios = sorted(b / a for a, b in zip(first, second, strict=True))
    medians = {name: round_to(statistics.median(values)) for name, values in times.items()}
    spread = [round_to(ratios[0]), round_to(ratios[-1])]
    return medians | {"ratio": round_to(statistics.median(ratios)), "ratio_min_max": spread, "rounds": rounds}


def round_to(value: float) -> float:
    return float(f"{value:.4g}")


def detail_step_against_semantic_step(size: Size, rounds: int) -> dict:
    experts, conditioning, latent = (
        size.with_expert(DTYPE),
        size.text(),
        {"samples": torch.zeros(size.latent)},
    )

    def step(sigma: float):
        sigmas = torch.tensor([sigma, sigma - 0.01])
        DCMKSampler.execute(experts, 0, 1, 1.0, conditioning, conditioning, latent, sigmas=sigmas)

    kappa = FAMILIES[size.family].schedule.kappa_sigma
    runs = {"semantic step": lambda: step(1.0), "detail step": lambda: step(kappa)}
    fewest, more = (flops(run) for run in runs.values())
    return {"size": str(size), "ratio_of_flops": round_to(more / fewest)} | compared(runs, rounds)


def flops(run) -> int:
    """Floating-point operations of all matrix products and attention."""

    def in_place(y: tuple, x: tuple, weight: tuple, **_) -> int:
        return 2 * x[0] * x[1] * weight[1]

    # The counter knows no products that are added in place, as the experts' are.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        run()
    return counter.get_total_flops()


def switch_against_a_step(size: Size, rounds: int) -> dict:
    """Putting the detail expert in place and taking it away again; and loading one baked MODEL after the other."""
    experts, conditioning, latent = (
        size.with_expert(DTYPE),
        size.text(),
        {"samples": torch.zeros(size.latent)},
    )
    (side,) = experts.get_additional_models()
    baked, network = DCMBake.execute(experts)[:2], experts.model.diffusion_model

    def step():
        DCMKSampler.execute(experts, 0, 1, 1.0, conditioning, conditioning, latent, sigmas=torch.tensor([1.0, 0.99]))

    def switch():
        with side.model.active(network):
            pass

    def load():
        for model in baked:
            comfy.model_management.load_models_gpu([model])

    results = {"size": str(size), "layers": len(side.model.terms)}
    for name, run in (("switch", switch), ("baked", load)):
        results[name] = compared({"semantic step": step, name: run}, rounds)
    return results


def sampler_against_stock_ksampler(rounds: int) -> dict:
    model = ModelSamplingSD3().patch(OVERHEAD.model(DTYPE), 17.0)[0]
    experts = DCMApplyExperts.execute(model, random_expert(model.model.diffusion_model, "wan", DTYPE))[0]
    sigmas = comfy.samplers.calculate_sigmas(experts.get_model_object("model_sampling"), "simple", 8)
    conditioning, latent = OVERHEAD.text(), {"samples": torch.zeros(OVERHEAD.latent)}

    def stock():
        nodes.common_ksampler(experts, 0, 8, 1.0, "euler", "simple", conditioning, conditioning, latent)

    def ours():
        DCMKSampler.execute(experts, 0, 8, 1.0, conditioning, conditioning, latent, sigmas=sigmas)

    return {"size": str(OVERHEAD)} | compared({"KSampler": stock, "DCMKSampler": ours}, rounds)


def memory_of_the_second_expert() -> dict:
    """Bytes of all tensors alive after a run with the detail expert and before, against the size of its file."""
    model = MEMORY.model(DTYPE)
    conditioning, latent = MEMORY.text(), {"samples": torch.zeros(MEMORY.latent)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detail.safetensors"
        save_expert(path, random_expert(model.model.diffusion_model, "wan", DTYPE))
        file = path.stat().st_size
        DCMKSampler.execute(model, 0, 4, 1.0, conditioning, conditioning, latent)
        before = held()
        experts = DCMApplyExperts.execute(model, load_expert(path))[0]
        DCMKSampler.execute(experts, 0, 4, 1.0, conditioning, conditioning, latent)
        extra = held() - before
    (side,) = experts.get_additional_models()
    counted = side.model_size()
    return {
        "file_bytes": file,
        "extra_bytes": extra,
        "ratio": round_to(extra / file),
        "counted_by_the_host": counted,
    }


def held() -> int:
    gc.collect()
    if CUDA:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        results = {
            "memory": memory_of_the_second_expert(),
            "overhead": sampler_against_stock_ksampler(3 * rounds),
            "step": {size.family: detail_step_against_semantic_step(size, rounds) for size in STEPS},
            "switch": switch_against_a_step(STEPS[0], rounds),
        }
    results["device"] = torch.cuda.get_device_name() if CUDA else "CPU, one thread, processor time"
    results["torch"] = torch.__version__
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]))
