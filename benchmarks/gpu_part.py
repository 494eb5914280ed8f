"""A backbone with a detail expert in ComfyUI, and the runs of it that gpu_in_host.py times."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

STEPS, TIMED = 4, 3
CUDA = torch.cuda.is_available()


class Part:
    """Loaded anew by ``unload`` and the next run; ``part`` is a record of gpu.py, ``folder`` holds the files."""

    def __init__(self, part: dict, folder: Path):
        import latent_preview
        from comfy_extras.nodes_custom_sampler import SamplerCustom
        from dcm_pack.dcm_core.families.presets import find_family
        from dcm_pack.nodes.ksampler import DCMKSampler

        self.folder, self.rounds, self.cfg, self.flop = folder, part["rounds"], part["cfg"], part["flop"]
        self.reference = folder / f"video_{'x'.join(map(str, part['latent']))}.safetensors"
        self.schedule = find_family(part["family"]).schedule
        given = torch.Generator().manual_seed(0)
        text = torch.randn(1, *part["text"], generator=given)
        self.text = [[text, {"pooled_output": torch.randn(1, 768, generator=given)}]]
        self.latent = {"samples": torch.zeros(part["latent"])}
        self.few_frames = {"samples": torch.zeros(part["latent"])[:, :, :2]}
        self.dcm, self.custom = DCMKSampler.execute, SamplerCustom().sample
        self.moments: list[float] = []
        self.last = torch.empty(0)
        self.videos: dict[str, torch.Tensor] = {}  # of the last run of each name
        latent_preview.prepare_callback = self.watched
        self.cold = forget(folder / "backbone.safetensors")
        self.loading = timed(self.load)

    def load(self) -> None:
        from dcm_pack.dcm_core.expert.file import load_expert
        from dcm_pack.nodes.apply_experts import DCMApplyExperts
        from dcm_pack.nodes.backbone.load import load_backbone

        self.plain = load_backbone(str(self.folder / "backbone.safetensors")).model
        self.experts = DCMApplyExperts.execute(self.plain, load_expert(self.folder / "detail.safetensors"))[0]

    def unload(self) -> None:
        """From the card: the next run brings all there again."""
        import comfy.model_management as memory

        memory.unload_all_models()
        memory.soft_empty_cache()

    def load_told(self) -> None:
        """Says how long the backbone takes from its file to a first short run, beyond such a run; before all others."""
        first = timed(lambda: self.four_steps(self.experts, self.few_frames))
        again = timed(lambda: self.four_steps(self.experts, self.few_frames))
        if self.cold:
            say(load_cold=self.loading + first - again)
        del self.plain, self.experts
        self.unload()
        first = timed(lambda: (self.load(), self.four_steps(self.experts, self.few_frames)))
        say(load_warm=first - again)

    def watched(self, *_: Any) -> Callable:
        """In place of the host's previews: notes when the run begins, and when each of its steps has its result."""
        self.moments = [now()]
        return lambda *_: self.moments.append(now())

    def four_steps(self, model: Any, latent: dict, **given: Any) -> None:
        self.last = self.dcm(model, 0, STEPS, 1.0, self.text, self.text, latent, **given)[0]["samples"]

    def stock(self, model: Any, latent: dict, sigmas: torch.Tensor, cfg: float = 1.0) -> None:
        import comfy.samplers

        euler = comfy.samplers.sampler_object("euler")
        self.custom(model, True, 0, cfg, self.text, self.text, euler, sigmas, latent)

    def in_turns(self, **runs: Callable[[dict], None]) -> dict[str, dict[str, float]]:
        """Median seconds of each run, and of its semantic and detail steps, after one run each of a few frames."""
        seen: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
        sigmas = self.schedule.sigmas(STEPS)
        for run in runs.values():
            run(self.few_frames)
        for round in range(self.rounds):
            for name in list(runs)[:: 1 if round % 2 else -1]:
                seen[name].setdefault("run", []).append(timed(lambda name=name: runs[name](self.latent)))
                self.videos[name] = self.last
                for step, seconds in list(enumerate(self.steps()))[1:]:
                    seen[name].setdefault(str(self.schedule.acting(sigmas[step])), []).append(seconds)
        return {name: {what: statistics.median(all) for what, all in times.items()} for name, times in seen.items()}

    def steps(self) -> list[float]:
        return [after - before for before, after in zip(self.moments, self.moments[1:], strict=False)]

    def told(self, times: dict[str, float]) -> None:
        """Says the times of a run with both experts."""
        rate = {"rate": self.flop / times["semantic"] / 1e12} if self.flop else {}
        say(**times, ratio=times["detail"] / times["semantic"], **rate)

    def difference_told(self, video: torch.Tensor) -> None:
        """Says how far it is from that of both experts in ComfyUI as it is, where there is one."""
        if self.reference.is_file():
            say(difference=distance(video, load_file(self.reference)["video"]))


def distance(video: torch.Tensor, reference: torch.Tensor) -> float:
    """Of its length."""
    return float((video - reference).norm() / reference.norm())


def forget(file: Path) -> bool:
    """Take a file out of the system's cache. False where that cannot be asked for."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def timed(run: Callable[[], Any]) -> float:
    start = now()
    run()
    return now() - start


def now() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def say(**figures: Any) -> None:
    rounded = {name: float(f"{each:.4g}") if isinstance(each, float) else each for name, each in figures.items()}
    print(json.dumps(rounded), flush=True)
