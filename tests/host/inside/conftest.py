"""These tests run inside ComfyUI's own Python process: started from its folder, by its interpreter.

    cd ComfyUI && .venv/bin/python -m pytest <this folder>

Elsewhere nothing is collected.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).parents[3]

# The pack's own `nodes` must not be found where the host's is meant.
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != str(PACK)]
if importlib.util.find_spec("folder_paths") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    specification = importlib.util.spec_from_file_location("dcm_pack", PACK / "__init__.py")
    sys.modules["dcm_pack"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(sys.modules["dcm_pack"])


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes():
    import torch

    torch.set_num_threads(1)  # sums in one order, so that equal means equal
    with torch.inference_mode():
        yield
