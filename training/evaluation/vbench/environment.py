"""The environment of VBench's package: how it is made, what it lacks, and how it is asked.

Its package wants old versions of PyTorch, NumPy and transformers, so it has a Python of its own, and that is only
called. Whoever wants it makes it with the commands told here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from .scores import CUSTOM, DIMENSIONS

_DETECTED = ("object_class", "multiple_objects", "color", "spatial_relationship")  # by detectron2
_NETWORKS = 12e9  # bytes, roughly, of all that judges the videos; downloaded when it is first asked for
_DOWNLOADERS = ("wget", "unzip")
_ASK = """
import importlib.util, json
found = {name: importlib.util.find_spec(name) is not None for name in ("vbench", "detectron2", "torch")}
found["package"] = importlib.util.find_spec("vbench").submodule_search_locations[0] if found["vbench"] else ""
if found["torch"]:
    import torch
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
print(json.dumps(found))
"""
_EVALUATE = """
import sys, torch
from vbench import VBench
videos, prompts, output, dimension, mode = sys.argv[1:]
VBench(torch.device("cuda"), prompts, output).evaluate(
    videos_path=videos, name=dimension, dimension_list=[dimension], mode=mode,
    imaging_quality_preprocessing_mode="longer")
"""
# The filter takes its network for granted, which the dynamic degree downloads.
_FILTER = """
from vbench.cli.vbench import main
from vbench.utils import init_submodules
init_submodules(["dynamic_degree"])
main()
"""


@dataclass(frozen=True)
class Environment:
    """What a Python has of VBench. ``package``: where it is; ``gpu``: the name of its GPU, if it can use one."""

    python: Path
    vbench: bool = False
    detectron2: bool = False
    torch: bool = False
    package: str = ""
    gpu: str = ""

    @classmethod
    def of(cls, python: Path) -> Environment:
        """Ask it; where there is none, it has nothing."""
        if not python.exists():
            return cls(python)
        asked = subprocess.run([str(python), "-c", _ASK], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise ConfigError(f"{python} cannot be asked what it has: {asked.stderr.strip().splitlines()[-1]}")
        return cls(python, **json.loads(asked.stdout.splitlines()[-1]))

    @property
    def prompts(self) -> Path | None:
        """The set of prompts that the package comes with."""
        return Path(self.package, "VBench_full_info.json") if self.vbench else None

    def lacks(self, dimensions: list[str]) -> list[str]:
        """What is missing for these dimensions, a sentence each, with the commands where there is one."""
        if not self.python.exists():
            return [
                f"There is no Python at {self.python}. Make the environment, where there is a GPU:\n"
                f"{commands(self.python, dimensions)}",
                *_lacks_networks(),
            ]
        found = []
        if not (self.vbench and self.torch):
            made = commands(self.python, dimensions)
            found.append(f"{self.python} has no package vbench. Make the environment:\n{made}")
        elif not self.gpu:
            found.append(f"The PyTorch of {self.python} finds no GPU, and VBench's networks run on one alone.")
        needing = _detected(dimensions)
        if self.vbench and needing and not self.detectron2:
            found.append(f"detectron2 is missing. Run:\n{_detector(self.python, needing)}")
        return [*found, *_lacks_networks()]

    def evaluate(self, videos: Path, prompts: Path, output: Path, dimension: str, custom: bool) -> None:
        """Run one dimension; its result is ``output/DIMENSION_eval_results.json``. Raises ConfigError."""
        mode = "custom_input" if custom else "vbench_standard"
        self._run(_EVALUATE, [str(videos), str(prompts), str(output), dimension, mode], dimension)

    def keep_still(self, videos: Path, output: Path) -> Path:
        """The folder of the still videos among those of the flickering dimension. Raises ConfigError."""
        shutil.rmtree(output, ignore_errors=True)  # else those of videos before would be among them
        arguments = ["static_filter", "--videos_path", str(videos), "--result_path", str(output)]
        self._run(_FILTER, arguments, "the filter of still videos")
        kept = output / "filtered_videos"
        if not any(kept.glob("*")):
            raise ConfigError(
                "temporal_flickering: VBench's filter found no still video among those of this dimension, so there is "
                "nothing to judge. Sample them anew, or leave it out with --dimensions; there is no Total then."
            )
        return kept

    def _run(self, code: str, arguments: list[str], what: str) -> None:
        ended = subprocess.run([str(self.python), "-c", code, *arguments], check=False).returncode
        if ended:
            raise ConfigError(f"{what}: VBench ended with {ended}; its reason stands above. What is done stays.")


def _lacks_networks() -> list[str]:
    """What is missing to download the networks that judge, as far as they are not there."""
    cache = Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")
    there = next(each for each in (cache, *cache.absolute().parents) if each.exists())
    wanted = _NETWORKS - sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    free, found = shutil.disk_usage(there).free, []
    if free < wanted:
        found.append(
            f"{cache} has {free / 1e9:.1f} GB free, and the networks that judge take about {wanted / 1e9:.0f} more: "
            "free some space, or set VBENCH_CACHE_DIR to another disk."
        )
    lacking = [name for name in _DOWNLOADERS if not shutil.which(name)]
    if lacking and not any(cache.glob("*")):
        found.append(f"VBench downloads its networks with {' and '.join(_DOWNLOADERS)}: install {', '.join(lacking)}.")
    return found


def _detected(dimensions: list[str]) -> list[str]:
    return [name for name in dimensions if name in _DETECTED]


def commands(python: Path, dimensions: list[str]) -> str:
    """What makes the environment of this Python for these dimensions, for a shell.

    CUDA up to 12.1 is what VBench asks for.
    """
    needing = _detected(dimensions)
    return "\n".join(
        [
            f"  python3.10 -m venv {python.parent.parent}",
            f"  {python} -m pip install torch==2.5.1 torchvision==0.20.1 "
            "--index-url https://download.pytorch.org/whl/cu121",
            f"  {python} -m pip install vbench==0.1.5",
            *([_detector(python, needing)] if needing else []),
        ]
    )


def _detector(python: Path, needing: list[str]) -> str:
    return (
        f"  {python} -m pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git   # for " + ", ".join(needing)
    )


def chosen(names: list[str], custom: bool) -> list[str]:
    """These dimensions, or all that there are. Raises ConfigError for one that there is not."""
    known = CUSTOM if custom else DIMENSIONS
    for name in names:
        if name not in known:
            whose = " for videos of your own" if custom else ""
            raise ConfigError(f"--dimensions: {name} is unknown{whose}; there are {', '.join(known)}.")
    return names or list(known)
