"""What is installed where: requirement files, pyproject.toml and the imports say the same, and one version."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from harness.hosts import ROOT
from harness.imports import HOST_MODULES, imports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

# Where a distribution is called otherwise than what is imported of it.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}
# What other packages import: torch.utils.tensorboard, diffusers, and transformers to read a tokenizer's .model.
THROUGH_OTHERS = {"tensorboard", "ftfy", "sentencepiece", "protobuf"}
OPTIONAL = {"pyarrow", "torchao"}  # asked for by name where it is needed and missing


def requirements(file: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text("utf-8").splitlines())
    return [line for line in lines if line]


def spelled(names: set[str]) -> set[str]:
    """One spelling for each name of a distribution: Some_Name is some-name."""
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def distributions(file: str) -> set[str]:
    return spelled({re.split(r"[^\w.-]", line)[0] for line in requirements(file)})


def imported(package: str) -> set[str]:
    """What a package imports from outside, as distributions are called."""
    return spelled({DISTRIBUTIONS.get(found.outside, found.outside) for found in imports(package) if found.outside})


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_pyproject_lists_what_the_requirement_files_list(project):
    assert project["project"]["dependencies"] == requirements("requirements.txt")
    assert project["project"]["optional-dependencies"]["training"] == requirements("training/requirements.txt")


def test_the_requirements_are_floors():
    for file in ("requirements.txt", "training/requirements.txt"):
        assert all(re.fullmatch(r"[\w.-]+>=[\d.]+", line) for line in requirements(file)), file


def test_the_requirements_are_what_nodes_and_core_import():
    assert distributions("requirements.txt") == (imported("dcm_core") | imported("nodes")) - spelled(
        HOST_MODULES
        | {"torch"}
        | {"flash_attn", "flash_attn_interface", "sageattention"}  # looked for when they could be used
    )


def test_the_trainers_requirements_are_what_it_imports_beside_them():
    expected = imported("training") - {"torch"} - distributions("requirements.txt") - OPTIONAL | THROUGH_OTHERS
    assert distributions("training/requirements.txt") == expected


def test_one_version(project):
    version = project["project"]["version"]
    init = (ROOT / "dcm_core" / "__init__.py").read_text("utf-8")
    assert re.findall(r'^__version__ = "(.+)"$', init, re.MULTILINE) == [version]
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released[0] == version


def test_one_pytorch():
    """The Makefile's, wherever it is named."""
    pin = re.compile(r"torch==([\d.]+\d)")
    named = {
        file.relative_to(ROOT).as_posix(): set(pin.findall(file.read_text("utf-8")))
        for file in [ROOT / "Makefile", *(ROOT / "scripts").glob("*.py"), *ROOT.glob("*.md"), *workflows()]
    }
    assert named["Makefile"] and set().union(*named.values()) == named["Makefile"], named


def test_one_ruff(project):
    """The hook's is one that the environment may have."""
    (hook,) = re.findall(r"rev: v([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (pinned,) = (line for line in project["project"]["optional-dependencies"]["dev"] if line.startswith("ruff=="))
    assert hook.startswith(pinned.removeprefix("ruff==").removesuffix("*"))


def workflows() -> list[Path]:
    return sorted((ROOT / ".github" / "workflows").glob("*.yml"))
