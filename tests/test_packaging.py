"""What is installed where: requirement files, pyproject.toml and the imports say the same, and one version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from harness.hosts import ROOT, host_environment
from harness.imports import HOST_MODULES, imports
from PIL import Image, ImageChops

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

# Where a distribution is called otherwise than what is imported of it.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}
# What other packages import: torch.utils.tensorboard, diffusers, and transformers to read a tokenizer's .model.
THROUGH_OTHERS = {"tensorboard", "ftfy", "sentencepiece", "protobuf"}
OPTIONAL = {"bitsandbytes", "pyarrow", "torchao"}  # asked for by name where it is needed and missing


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


IN_THE_ARCHIVE = {
    *("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("Makefile", "nodes", "dcm_core", "workflows", "web", "locales", "docs", "training", "scripts"),
}
ARCHIVE_BYTES = 30_000_000  # the weights of Shapes are most of it
RUN_SHAPES = """
import asyncio, sys
from pathlib import Path
from harness import in_host
in_host.prepare()
import torch
pack = in_host.load_pack(Path(sys.argv[1]))
async def listed():
    return {node.GET_SCHEMA().node_id: node for node in await (await pack.comfy_entrypoint()).get_node_list()}
nodes = asyncio.run(listed())
with torch.inference_mode():
    model, semantic, detail, clip, vae, latent = nodes["DCMShapes"].execute(1).args
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a red striped circle moving left fast"))
    model = nodes["DCMApplyExperts"].execute(model, detail, semantic).args[0]
    latent = nodes["DCMKSampler"].execute(model, 0, 4, 1.0, text, text, latent).args[0]
    print("VIDEO", *vae.decode(latent["samples"]).shape)
"""


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git checkout, of which the registry's archive is made")
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """What the registry would publish: the files that git tracks without those of .comfyignore, as comfy-cli has it."""
    left_out = git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore")
    file = tmp_path_factory.mktemp("archive") / "node.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(set(git("ls-files")) - set(left_out)):
            packed.write(ROOT / name, name)
    return file


def test_the_registry_gets_the_pack_without_its_tests(archive):
    names = zipfile.ZipFile(archive).namelist()
    assert {name.partition("/")[0] for name in names} == IN_THE_ARCHIVE
    assert archive.stat().st_size < ARCHIVE_BYTES


def test_the_archive_runs_in_the_host(archive, host, tmp_path):
    zipfile.ZipFile(archive).extractall(tmp_path)
    done = host.run("-c", RUN_SHAPES, str(tmp_path))
    assert "VIDEO 1 16 24 24 3" in done.stdout, done.stdout + done.stderr


def test_comfy_cli_finds_nothing_wrong():
    comfy = shutil.which("comfy")
    if not comfy:
        pytest.skip("no comfy-cli: pip install comfy-cli, in an environment of its own")
    command = [comfy, "--skip-prompt", "node", "validate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=host_environment())
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "passed" in said and "Warning" not in said, said


@pytest.mark.parametrize(("field", "ratio"), [("Icon", 1), ("Banner", 21 / 9)])
def test_the_registrys_pictures_are_in_the_tree(project, field, ratio):
    """By an address that ends in their path, of the shape that it asks for."""
    address = project["tool"]["comfy"][field]
    picture = Image.open(ROOT / address.partition("/main/")[2])
    assert picture.width / picture.height == pytest.approx(ratio, abs=0.01)
    assert field == "Banner" or picture.width <= 400


def test_the_icon_shows_its_circle_in_the_middle():
    red, green, _ = Image.open(ROOT / "docs" / "icon.png").convert("RGB").split()
    left, top, right, bottom = ImageChops.subtract(red, green).point(lambda value: 255 * (value > 40)).getbbox()
    assert (left + right) / 2 == pytest.approx(red.width / 2, rel=0.1)
    assert (top + bottom) / 2 == pytest.approx(red.height / 2, rel=0.1)


def workflows() -> list[Path]:
    return sorted((ROOT / ".github" / "workflows").glob("*.yml"))
