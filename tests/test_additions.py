"""What is added touches few files: a family three, a speed preset one row.

Each is done once, in a copy of the tree. A method is one file (``training/test_registry.py``), a kind of layer three
(``dcm_core/expert/test_layers.py``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FAMILY = """
from ..schedule.experts import ExpertSchedule
from ..schedule.grid import NoiseGrid
from .family import Family
from .keymap import KeyMap, Row, layers

KEYMAP = KeyMap(
    "tidal",
    (*layers("proj_in", "tide_in"), *layers("time_proj", "tide_time"), Row("table", "tide_table")),
    low_rank=("tide_in",),
    replaced=("tide_time",),
    recognised_by=Row("table", "tide_table"),
    variant=lambda shapes: f"Tidal of width {shapes['tide_in.weight'][0]}",
)
FAMILIES = (
    Family(
        name="tidal",
        title="Tidal",
        keymap=KEYMAP,
        schedule=ExpertSchedule(NoiseGrid(shift=9.0, points=20), kappa_index=8),
        host_class="Tidal",
        host_patch="tidal",
        input_layer="tide_in",
    ),
)
"""

PATCH = """
def run_as_released(model, grid):
    return model
"""

ADAPTER = """
from dcm_core.families.presets import find_family


class TidalBackbone:
    def __init__(self, config):
        self.family, self.keymap = config.family, find_family(config.family).keymap


BACKBONE = TidalBackbone
"""

USE_FAMILY = """
import torch
from dcm_core.backbone.file import BackboneFile
from dcm_core.expert.file import load_expert, save_expert
from dcm_core.expert.layers import Difference, Expert, LowRank
from dcm_core.expert.metadata import ExpertMetadata
from dcm_core.expert.check import check
from dcm_core.families.presets import preset
from safetensors.torch import save_file
from training.config import BackboneConfig
from training.registry import build_backbone

state = {"proj_in.weight": (6, 4), "proj_in.bias": (6,), "time_proj.weight": (5, 6), "time_proj.bias": (5,)}
state["table"] = (2,)
save_file({name: torch.randn(shape) for name, shape in state.items()}, "backbone.safetensors")
file = BackboneFile.open("backbone.safetensors")
assert (file.layout.family.name, file.layout.kind) == ("tidal", "diffusers")
assert file.layout.describe().startswith("Tidal of width 6"), file.layout.describe()
layers = {"tide_in": LowRank(torch.randn(2, 4), torch.randn(6, 2), 2.0),
          "tide_time": Difference(torch.randn(5, 6), torch.randn(5))}
metadata = ExpertMetadata("detail", "tidal", "Tidal", preset("tidal"), guidance=1.0, complete=True)
save_expert("expert.safetensors", Expert(metadata, layers))
expert = load_expert("expert.safetensors")
assert expert.metadata.schedule.split(expert.metadata.schedule.sigmas(4)) == (2, 2)
check(expert, file.shapes, family="tidal").raise_if_wrong()
assert build_backbone(BackboneConfig(name="tidal", family="tidal")).keymap.network == "tidal"
"""

USE_PRESET = """
from dcm_core.schedule.speed_loras import SPEED_PRESETS, speed_sigmas

assert speed_sigmas("tidal turbo", 2).tolist() == [1.0, 0.5, 0.0]
assert list(SPEED_PRESETS)[-1] == "tidal turbo"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("dcm_core", "nodes", "training"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(folder: Path, code: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_family_is_its_record_an_adapter_and_a_patch_where_the_host_needs_one(copy):
    for path, text in {
        "dcm_core/families/tidal.py": FAMILY,
        "nodes/backbone/tidal.py": PATCH,
        "training/backbones/tidal.py": ADAPTER,
    }.items():
        assert not (copy / path).exists()
        (copy / path).write_text(text, "utf-8")
    run(copy, USE_FAMILY)


def test_a_speed_preset_is_one_row(copy):
    path = copy / "dcm_core" / "schedule" / "speed_loras.py"
    text = path.read_text("utf-8")
    row = '    "tidal turbo": SpeedPreset({2: (1.0, 0.5)}, "https://example.org", family="tidal"),\n'
    before, after = text.split("\n}\n", 1)
    path.write_text(f"{before}\n{row}}}\n{after}", "utf-8")
    run(copy, USE_PRESET)
