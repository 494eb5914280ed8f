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
from dcm_pack.dcm_core.expert import Difference, Expert, ExpertMetadata, LowRank  # noqa: E402
from dcm_pack.dcm_core.expert_file import load_expert, save_expert  # noqa: E402
from dcm_pack.dcm_core.keymaps import keymap  # noqa: E402
from dcm_pack.dcm_core.schedule import SCHEDULES  # noqa: E402
from dcm_pack.nodes import DCMApplyExperts, DCMKSampler  # noqa: E402
from torch import nn  # noqa: E402

import nodes  # noqa: E402

RANK = 128  # that of the published detail experts
SCHEDULE = SCHEDULES["wan"]


@dataclass(frozen=True)
class Size:
    """A random Wan of the 1.3B width, and the latent it is run on."""

    blocks: int
    latent: tuple[int, ...]

    def __str__(self) -> str:
        tokens = self.latent[2] * self.latent[3] * self.latent[4] // 4
        return f"Wan of width 1536 with {self.blocks} block(s), {tokens} tokens"

    def model(self, dtype: torch.dtype):
        sizes = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": self.blocks}
        network = WanModel(**sizes, dtype=dtype, device="cpu", operations=disable_weight_init)
        for parameter in network.parameters():
            parameter.data = 0.02 * torch.randn_like(parameter)
        return comfy.sd.load_diffusion_model_state_dict(network.state_dict())


STEP = Size(30, (1, 16, 21, 60, 104)) if CUDA else Size(1, (1, 16, 6, 52, 52))
OVERHEAD = Size(30, (1, 16, 5, 30, 52)) if CUDA else Size(2, (1, 16, 2, 16, 16))
MEMORY = Size(4, (1, 16, 1, 8, 8))
DTYPE = torch.bfloat16 if CUDA else torch.float32


def random_expert(network: nn.Module, dtype: torch.dtype) -> Expert:
    """A detail expert of the published kind: rank 128 on all attention, and the embedders and the head whole."""
    low_rank, replaced = keymap("wan").detail_layers(network.state_dict())
    layers = {}
    for name in [*low_rank, *replaced]:
        rows, columns = network.get_submodule(name).weight.shape
        if name in low_rank:
            pair = torch.randn(RANK, columns, dtype=dtype), torch.randn(rows, RANK, dtype=dtype)
            layers[name] = LowRank(0.01 * pair[0], 0.01 * pair[1], 2.0 * RANK)
        else:
            layers[name] = Difference(
                0.001 * torch.randn(rows, columns, dtype=dtype), torch.zeros(rows, dtype=dtype)
            )
    return Expert(ExpertMetadata("detail", "wan", "random", SCHEDULE, 5.0, RANK, 2.0 * RANK), layers)


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


def text() -> list:
    return [[torch.randn(1, 64, 4096), {}]]


def detail_step_against_semantic_step(rounds: int) -> dict:
    model = STEP.model(DTYPE)
    experts = DCMApplyExperts.execute(model, random_expert(model.model.diffusion_model, DTYPE))[0]
    kappa = SCHEDULE.kappa_sigma
    conditioning, latent = text(), {"samples": torch.zeros(STEP.latent)}

    def step(sigma: float):
        sigmas = torch.tensor([sigma, sigma - 0.01])
        DCMKSampler.execute(experts, 0, 1, 1.0, conditioning, conditioning, latent, sigmas=sigmas)

    return {"size": str(STEP)} | compared(
        {"semantic step": lambda: step(1.0), "detail step": lambda: step(kappa)}, rounds
    )


def sampler_against_stock_ksampler(rounds: int) -> dict:
    model = ModelSamplingSD3().patch(OVERHEAD.model(DTYPE), 17.0)[0]
    experts = DCMApplyExperts.execute(model, random_expert(model.model.diffusion_model, DTYPE))[0]
    sigmas = comfy.samplers.calculate_sigmas(experts.get_model_object("model_sampling"), "simple", 8)
    conditioning, latent = text(), {"samples": torch.zeros(OVERHEAD.latent)}

    def stock():
        nodes.common_ksampler(experts, 0, 8, 1.0, "euler", "simple", conditioning, conditioning, latent)

    def ours():
        DCMKSampler.execute(experts, 0, 8, 1.0, conditioning, conditioning, latent, sigmas=sigmas)

    return {"size": str(OVERHEAD)} | compared({"KSampler": stock, "DCMKSampler": ours}, rounds)


def memory_of_the_second_expert() -> dict:
    """Bytes of all tensors alive after a run with the detail expert and before, against the size of its file."""
    model = MEMORY.model(DTYPE)
    conditioning, latent = text(), {"samples": torch.zeros(MEMORY.latent)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detail.safetensors"
        save_expert(path, random_expert(model.model.diffusion_model, DTYPE))
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
            "step": detail_step_against_semantic_step(rounds),
        }
    results["device"] = torch.cuda.get_device_name() if CUDA else "CPU, one thread, processor time"
    results["torch"] = torch.__version__
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]))
