"""The commands start from a bare clone, from any folder, and from a Python in isolated mode.

They run in a copy of the tree that tells where its packages came from. So an install of this project, which the
Python that runs these tests may well have, cannot stand in for the copy unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness.clips import moving, write_video

ROOT = Path(__file__).resolve().parents[1]

TELL = """
def _tell():
    import sys
    from importlib.util import find_spec
    from pathlib import Path

    print("TELLS", __name__, __file__, file=sys.stderr)
    root = Path(__file__).resolve().parents[1]
    for name in {file.stem for folder in ("dcm_core", "training") for file in root.glob(f"{folder}/**/*")}:
        spec = find_spec(name) if name.isidentifier() and not name.startswith("__") else None
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
        if any(root in Path(place).parents for place in places if place):
            print("BARE NAME", name, file=sys.stderr)

import atexit
atexit.register(_tell)
"""

CONFIG = """
output: nowhere
device: cpu
backbone: {name: shapes, architecture: {ffn_dim: 32, num_layers: 1}}
data: {batch_size: 1}
stages: {teacher: {method: teacher, iterations: 1}}
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree that tells where its packages came from, and which of its modules have bare names."""
    root = tmp_path_factory.mktemp("a clone")
    for folder in ("dcm_core", "training"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        with (root / folder / "__init__.py").open("a", encoding="utf-8") as file:
            file.write(TELL)
    (root / "tiny.yaml").write_text(CONFIG)
    return root


def start(clone: Path, folder: Path, *command: str, packages: set[str]) -> str:
    """What a command prints. Fails where it does, or where it imported other packages than the copy's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = {line for line in done.stderr.splitlines() if line.startswith(("TELLS", "BARE NAME"))}
    assert told == {f"TELLS {name} {clone / name / '__init__.py'}" for name in packages}
    return done.stdout


def test_the_trainer_from_another_folder_and_in_isolation(clone, tmp_path):
    command = ["-I", str(clone / "training" / "distill.py"), "--try", "--config", str(clone / "tiny.yaml")]
    output = start(clone, tmp_path, *command, packages={"dcm_core", "training"})
    assert "stage teacher" in output and "flow" in output


def test_a_trial_from_another_folder_goes_through_all_stages_that_have_what_they_build_on(clone, tmp_path):
    shutil.copy(ROOT / "training" / "configs" / "shapes_quick.yaml", tmp_path / "quick.yaml")
    weights = f"backbone.weights={ROOT / 'dcm_core' / 'shapes' / 'weights' / 'teacher.safetensors'}"
    command = [str(clone / "training" / "distill.py"), "--config", "quick.yaml", "--try", weights]
    settings = ["data.batch_size=1", f"output={tmp_path}"]
    told = start(clone, tmp_path, *command, *settings, packages={"dcm_core", "training"})
    assert "stage semantic: semantic, 2.03 M trained parameters" in told
    assert "stage detail: not tried, since it builds on a stage before it. There is no semantic expert" in told
    assert not (tmp_path / "semantic").exists()


@pytest.mark.parametrize("name", ["distill.py", "paths.py"])
def test_the_trainer_from_the_clone(clone, name):
    command = (os.path.join("training", name), "--help")
    assert "--dry-run" in start(clone, clone, *command, packages={"training"})


@pytest.mark.parametrize("flags", [[], ["-I"]], ids=["plain", "isolated"])
def test_the_preparation_from_another_folder(clone, tmp_path, flags):
    """With a process beside its own, which has to find the packages too."""
    write_video(tmp_path / "clip.mp4", moving(16))
    options = ["--data", ".", "--backbone", "shapes", "--output", "cache", "--workers", "1"]
    command = [
        *flags,
        str(clone / "training" / "prepare.py"),
        *options,
        "--caption",
        "a red plain circle moving up fast",
    ]
    assert "1 file: 1 clip" in start(clone, tmp_path, *command, packages={"dcm_core", "training"})
    assert (tmp_path / "cache" / "index.json").is_file()


def test_the_evaluation_from_the_clone(clone):
    command = (os.path.join("training", "evaluate.py"), "--help")
    assert "--html" in start(clone, clone, *command, packages={"training"})


def test_the_preparation_from_the_clone(clone):
    command = (os.path.join("training", "prepare.py"), "--help")
    assert "--dry-run" in start(clone, clone, *command, packages={"training"})


@pytest.mark.parametrize("flags", [[], ["-I"]], ids=["plain", "isolated"])
def test_the_converter_from_another_folder(clone, tmp_path, flags):
    expert = clone / "dcm_core" / "shapes" / "weights" / "detail.safetensors"
    command = (*flags, str(clone / "dcm_core" / "convert"), "inspect", str(expert))
    assert "detail" in start(clone, tmp_path, *command, packages={"dcm_core"})


@pytest.mark.parametrize("command", [("-m", "dcm_core.convert"), (os.path.join("dcm_core", "convert"),)])
def test_the_converter_from_the_clone(clone, command):
    assert "inspect" in start(clone, clone, *command, "--help", packages={"dcm_core"})
